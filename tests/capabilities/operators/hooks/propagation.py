"""A CompositeController's hook with customize: a ConfigMap copied into chosen namespaces."""

import json
from http.server import BaseHTTPRequestHandler, HTTPServer


def customize(request):
    spec = request["parent"]["spec"]
    source = {"apiVersion": "v1", "resource": "configmaps", "names": [spec["source"]]}
    spaces = {"apiVersion": "v1", "resource": "namespaces", "labelSelector": spec["into"]}
    return {"relatedResources": [{**source, "namespace": spec["from"]}, spaces]}


def sync(request):
    spec, related = request["parent"]["spec"], request["related"]
    source = related["ConfigMap.v1"].get(f"{spec['from']}/{spec['source']}")
    if source is None:
        return {"children": []}
    copies = [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": spec["source"], "namespace": space},
            "data": source["data"],
        }
        for space in related["Namespace.v1"]
    ]
    return {"children": copies, "status": {"copies": len(request["children"]["ConfigMap.v1"])}}


class Hook(BaseHTTPRequestHandler):
    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["content-length"])))
        answer = json.dumps({"/sync": sync, "/customize": customize}[self.path](request)).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    server = HTTPServer(("127.0.0.1", 0), Hook)
    print(server.server_port, flush=True)
    server.serve_forever()
