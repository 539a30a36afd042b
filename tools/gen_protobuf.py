"""Write the table of Kubernetes' protobuf messages that `underway.wire.kubeproto` reads.

    python tools/gen_protobuf.py [GO_MODULE_VERSION]

Field numbers and wire types are those of the Go modules' generated.proto files; the names in JSON,
and whether a zero value is left out there, are those of the Go structs' tags. Output:
src/underway/wire/data/protobuf.json with

- packages: apiVersion -> protobuf package
- messages: full name -> [[number, JSON name, type, flags], ...], one message a line; flags are
  r(epeated), m(ap with string keys), i(nlined), o(mitted when zero), p(ointer);
  a message that is a list in JSON has one field named ""
"""

import json
import re
import sys
from pathlib import Path

from k8s_modules import proto_files

OUTPUT = Path(__file__).parent.parent / "src/underway/wire/data/protobuf.json"
PROTO_FIELD = re.compile(r"(optional|repeated|map<string, *(?P<value>\S+)>) *(.*?) *(\w+) = (\d+);")
GO_STRUCT = re.compile(r"^type (\w+) struct \{$", re.MULTILINE)
GO_FIELD = re.compile(r"^\t(?:\w+\s+)?(?P<type>\S.*?)\s+`(?P<tags>[^`]*)`", re.MULTILINE)
GO_GROUP = re.compile(r'^(?:const )?\s*GroupName\s*= "(.*)"', re.MULTILINE)
SCALARS = {"string", "bool", "bytes", "int32", "int64", "double"}


def go_fields(folder: Path) -> tuple[dict[tuple[str, int], tuple[str, str]], set[str]]:
    """(struct, number) -> (JSON name, flags), and the named types that are slices."""
    fields: dict[tuple[str, int], tuple[str, str]] = {}
    slices: set[str] = set()
    for path in sorted(folder.glob("*.go")):
        if path.name.startswith("generated") or path.name.endswith("_test.go"):
            continue
        text = path.read_text()
        slices |= set(re.findall(r"^type (\w+) \[\]", text, re.MULTILINE))
        for struct in GO_STRUCT.finditer(text):
            body = text[struct.end() : text.index("\n}", struct.end())]
            for field in GO_FIELD.finditer(body):
                proto = re.search(r'protobuf:"\w+,(\d+)', field["tags"])
                names = re.search(r'json:"([^"]*)"', field["tags"])
                if not proto or not names:
                    continue
                name, *options = names[1].split(",")
                flags = "i" if "inline" in options or not name else ""
                flags += "o" if {"omitempty", "omitzero"} & set(options) else ""
                flags += "p" if field["type"].startswith("*") else ""
                fields[struct[1], int(proto[1])] = (name, flags)
    return fields, slices


def full_name(name: str, package: str) -> str:
    """A type's full name, or the scalar itself."""
    if name in SCALARS:
        return name
    return name.removeprefix(".") if name.startswith(".") else f"{package}.{name}"


def messages_of(proto: Path) -> dict[str, list[list[object]]]:
    """The messages of one generated.proto."""
    found: dict[str, list[list[object]]] = {}
    fields, slices = go_fields(proto.parent)
    package = message = ""
    for line in proto.read_text().splitlines():
        text = line.strip()
        if text.startswith("package "):
            package = text.split()[1].rstrip(";")
        elif text.startswith("message "):
            message = text.split()[1]
            found[f"{package}.{message}"] = []
        elif match := PROTO_FIELD.match(text):
            number = int(match[5])
            name, flags = fields.get((message, number), (match[4], "o"))
            if name == "-":
                name = match[4]
            flags += {"r": "r", "m": "m"}.get(match[1][0], "")
            if message in slices:
                name = ""
            kind = full_name(match["value"] or match[3], package)
            found[f"{package}.{message}"].append([number, name, kind, flags])
    return found


def group_of(folder: Path) -> str | None:
    """The API group a package belongs to; None for packages of no group."""
    for name in ("register.go", "types.go", "doc.go"):
        path = folder / name
        if path.exists() and (match := GO_GROUP.search(path.read_text())):
            return match[1]
    return None


def main() -> None:
    version = sys.argv[1] if len(sys.argv) > 1 else "latest"
    packages: dict[str, str] = {}
    messages: dict[str, list[list[object]]] = {}
    for proto in proto_files(version):
        if "testapigroup" in proto.parts:
            continue
        found = messages_of(proto)
        messages |= found
        group = group_of(proto.parent)
        if group is not None:
            package = next(iter(found)).rpartition(".")[0]
            packages["/".join(filter(None, (group, proto.parent.name)))] = package
    used = {str(kind) for fields in messages.values() for _, _, kind, _ in fields}
    missing = used - SCALARS - messages.keys()
    if missing:
        sys.exit(f"unknown types: {sorted(missing)}")
    lines = ",\n".join(
        f"{json.dumps(n)}:{json.dumps(f, separators=(',', ':'))}"
        for n, f in sorted(messages.items())
    )
    OUTPUT.write_text(
        f'{{"packages":{json.dumps(packages, sort_keys=True, indent=0)},'
        f'\n"messages":{{\n{lines}\n}}}}\n'
    )
    print(f"{len(messages)} messages in {len(packages)} group-versions")


if __name__ == "__main__":
    main()
