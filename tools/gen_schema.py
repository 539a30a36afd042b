"""Write the index of built-in Kubernetes types that `underway.api.schema` reads.

    python tools/gen_schema.py [KUBERNETES_VERSION]

Input is PyPI's `kubernetes-validate` (field types, list and patch keys, descriptions) of the
newest release it holds, and the `+default` markers of the matching Go modules. Output:

- src/underway/api/data/schema.json: one type a line, OpenAPI v3 without descriptions
- src/underway/api/data/descriptions.json.zst: type -> field -> text, "" being the type itself
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import zstandard
from k8s_modules import proto_files

DATA = Path(__file__).parent.parent / "src/underway/api/data"
META = "io.k8s.apimachinery.pkg.apis.meta.v1."
SCHEMALESS = {
    "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSON",
    "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrArray",
    "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrBool",
    "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrStringArray",
}
FREE_OBJECTS = {
    "io.k8s.apimachinery.pkg.runtime.RawExtension",
    META + "FieldsV1",
    META + "Patch",
}
KEPT = (
    "format",
    "required",
    "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-map-type",
    "x-kubernetes-patch-merge-key",
    "x-kubernetes-patch-strategy",
    "x-kubernetes-unions",
    "x-kubernetes-group-version-kind",
)
FIELD = re.compile(r"(?:optional|repeated|map<.*>)\s+(?:\S+\s+)?(\S+) = \d+;")


def newest(root: Path) -> Path:
    """The folder of the newest release."""
    folders = [p for p in root.glob("v*-local") if (p / "_definitions.json").exists()]
    return max(folders, key=lambda p: [int(n) for n in re.findall(r"\d+", p.name)])


def defaults_of(proto: Path) -> dict[tuple[str, str], Any]:
    """(type, field) -> default, from the comments of one generated.proto."""
    found: dict[tuple[str, str], Any] = {}
    package = message = ""
    pending: Any = None
    for line in proto.read_text().splitlines():
        text = line.strip()
        if text.startswith("package k8s.io."):
            package = "io.k8s." + text.removeprefix("package k8s.io.").rstrip(";")
        elif text.startswith("message "):
            message = text.split()[1]
        elif text.startswith("// +default="):
            try:
                pending = json.loads(text.removeprefix("// +default="))
            except json.JSONDecodeError:
                pending = None  # a reference to a Go constant
        elif match := FIELD.match(text):
            if pending is not None:
                found[f"{package}.{message}", match[1]] = pending
            pending = None
    return found


def compact(node: dict[str, Any]) -> dict[str, Any]:
    """A definition's node as OpenAPI v3, without descriptions."""
    out: dict[str, Any] = {}
    if ref := node.get("$ref"):
        out["$ref"] = "#/components/schemas/" + ref.rsplit("/", 1)[1]
    kinds = node.get("type")
    if kinds:
        out["type"] = kinds if isinstance(kinds, str) else kinds[0]
    if "oneOf" in node:
        out["oneOf"] = [{"type": option["type"][0]} for option in node["oneOf"]]
    out |= {key: node[key] for key in KEPT if key in node}
    if "properties" in node:
        out["properties"] = {name: compact(child) for name, child in node["properties"].items()}
    for key in ("items", "additionalProperties"):
        if isinstance(node.get(key), dict):
            out[key] = compact(node[key])
    return out


def special(name: str, out: dict[str, Any]) -> None:
    """What the JSON of a type means where its definition does not say so."""
    if name.endswith(".IntOrString"):
        out["format"] = "int-or-string"
        out["oneOf"] = [{"type": "integer"}, {"type": "string"}]
    elif name.endswith(".Quantity"):
        out["format"] = "quantity"
    elif name in FREE_OBJECTS or name in SCHEMALESS:
        out["x-kubernetes-preserve-unknown-fields"] = True
        out["x-kubernetes-map-type"] = "atomic"
    elif out.get("type") == "object":
        out.setdefault("properties", {})


def main() -> None:
    version = sys.argv[1] if len(sys.argv) > 1 else ""
    root = Path(kubernetes_validate.__file__).parent / "kubernetes-json-schema"
    folder = root / f"v{version}-local" if version else newest(root)
    version = folder.name.removeprefix("v").removesuffix("-local")
    definitions = json.loads((folder / "_definitions.json").read_text())["$defs"]
    go_version = "v0." + version.split(".", 1)[1]
    defaults: dict[tuple[str, str], Any] = {}
    for proto in proto_files(go_version):
        defaults |= defaults_of(proto)

    kinds: dict[str, str] = {}
    types: dict[str, Any] = {}
    descriptions: dict[str, dict[str, str]] = {}
    for name, node in sorted(definitions.items()):
        out = types[name] = compact(node)
        special(name, out)
        texts = {"": node.get("description", "")}
        texts |= {f: c.get("description", "") for f, c in node.get("properties", {}).items()}
        descriptions[name] = {field: text for field, text in texts.items() if text}
        for gvk in node.get("x-kubernetes-group-version-kind", ()):
            group_version = "/".join(filter(None, (gvk["group"], gvk["version"])))
            kinds[f"{group_version}/{gvk['kind']}"] = name
    for (name, field), value in sorted(defaults.items()):
        if name in types and field in types[name].get("properties", {}):
            types[name]["properties"][field]["default"] = value

    lines = ",\n".join(
        f"{json.dumps(n)}:{json.dumps(t, separators=(',', ':'))}" for n, t in types.items()
    )
    (DATA / "schema.json").write_text(
        f'{{"version":{json.dumps(version)},\n'
        f'"kinds":{json.dumps(kinds, sort_keys=True, indent=0)},'
        f'\n"types":{{\n{lines}\n}}}}\n'
    )
    text = json.dumps(descriptions, separators=(",", ":")).encode()
    (DATA / "descriptions.json.zst").write_bytes(zstandard.compress(text, 19))
    print(f"Kubernetes {version}: {len(types)} types, {len(kinds)} kinds, {len(defaults)} defaults")


if __name__ == "__main__":
    main()
