"""A CompositeController's hook: a set of numbered pods, and a Service for each while wanted."""

import json
from http.server import BaseHTTPRequestHandler, HTTPServer


def sync(request):
    parent, pods = request["parent"], request["children"]["Pod.v1"]
    name, spec = parent["metadata"]["name"], parent["spec"]
    labels = spec["selector"]["matchLabels"]
    ready = [pod for pod in pods.values() if is_ready(pod)]
    children = [
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": f"{name}-{number}", "labels": labels},
            "spec": {"containers": [{"name": "main", "image": spec["image"]}]},
        }
        for number in range(spec["replicas"])
    ]
    return {"status": {"replicas": len(pods), "ready": len(ready)}, "children": children}


def finalize(request):
    """Take the pods away one by one, the last first; then let the parent go."""
    left = sorted(request["children"]["Pod.v1"])
    request["parent"]["spec"]["replicas"] = max(len(left) - 1, 0)
    return {**sync(request), "finalized": not left}


def is_ready(pod):
    conditions = pod.get("status", {}).get("conditions", [])
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


class Hook(BaseHTTPRequestHandler):
    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["content-length"])))
        answer = json.dumps({"/sync": sync, "/finalize": finalize}[self.path](request)).encode()
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
