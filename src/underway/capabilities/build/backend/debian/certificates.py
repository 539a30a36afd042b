"""Certificate authorities where TLS libraries look for them.

Source: update-ca-certificates(8); openssl-rehash(1) and X509_NAME_hash: the first four bytes,
little-endian, of the SHA-1 of the subject's canonical encoding.
"""

from __future__ import annotations

import hashlib
import re
import warnings

from underway.capabilities.build.backend.debian.unpacking import Tree

_SOURCES = "usr/share/ca-certificates"
_TARGET = "etc/ssl/certs"


def install_authorities(tree: Tree) -> None:
    """List the packaged certificates, link them by name and hash, and bundle them."""
    from cryptography import x509

    below = tree.resolved(_SOURCES)
    found = sorted(below.rglob("*.crt")) if below else []
    names = [str(each.relative_to(below)) for each in found if below and not each.is_symlink()]
    header = "# Authorities in this image: a line that begins with ! leaves one out.\n"
    tree.write("etc/ca-certificates.conf", header + "".join(f"{name}\n" for name in names))
    tree.directory(_TARGET, 0o755)
    tree.directory("usr/local/share/ca-certificates", 0o755)
    bundle, taken = b"", set()
    for name in names:
        data = tree.read(f"{_SOURCES}/{name}").encode("utf-8", "surrogateescape")
        bundle += data if data.endswith(b"\n") else data + b"\n"
        link = name.rpartition("/")[2].removesuffix(".crt").replace(" ", "_")
        link = link.replace("(", "=").replace(")", "=").replace(",", "_") + ".pem"
        tree.link(f"{_TARGET}/{link}", f"/{_SOURCES}/{name}")
        with warnings.catch_warnings():
            # Old authorities have serial numbers that RFC 5280 forbids; they are trusted still.
            warnings.simplefilter("ignore")
            subject = x509.load_pem_x509_certificate(data).subject
        hashed, number = name_hash(subject.public_bytes()), 0
        while f"{hashed}.{number}" in taken:
            number += 1
        taken.add(f"{hashed}.{number}")
        tree.link(f"{_TARGET}/{hashed}.{number}", link)
    tree.write(f"{_TARGET}/ca-certificates.crt", bundle)


def name_hash(subject_der: bytes) -> str:
    """The eight digits by which OpenSSL finds an authority, of its DER-encoded subject."""
    canonical = b""
    for relative in _elements(_body(subject_der)):
        attributes = []
        for attribute in _elements(_body(relative)):
            kind, value = _elements(_body(attribute))
            attributes.append(_wrap(0x30, kind + _canonical(value)))
        canonical += _wrap(0x31, b"".join(sorted(attributes)))
    return f"{int.from_bytes(hashlib.sha1(canonical).digest()[:4], 'little'):08x}"  # noqa: S324  # OpenSSL's


_ENCODINGS = {
    0x0C: "utf-8", 0x13: "latin-1", 0x14: "latin-1", 0x16: "latin-1", 0x1A: "latin-1",
    0x1C: "utf-32-be", 0x1E: "utf-16-be",
}  # fmt: skip


def _canonical(value: bytes) -> bytes:
    """A text as UTF-8 in lower case (ASCII only) with single spaces; anything else as it is."""
    encoding = _ENCODINGS.get(value[0])
    if encoding is None:
        return value
    text = _body(value).decode(encoding).strip(" \t\n\v\f\r")
    text = re.sub(r"[ \t\n\v\f\r]+", " ", text)
    lowered = "".join(each.lower() if each.isascii() else each for each in text)
    return _wrap(0x0C, lowered.encode())


def _length(data: bytes, at: int) -> tuple[int, int]:
    """The length of the element at ``at``, and where its content begins."""
    first = data[at + 1]
    if first < 0x80:
        return first, at + 2
    size = first & 0x7F
    return int.from_bytes(data[at + 2 : at + 2 + size]), at + 2 + size


def _body(data: bytes) -> bytes:
    length, start = _length(data, 0)
    return data[start : start + length]


def _elements(data: bytes) -> list[bytes]:
    found, at = [], 0
    while at < len(data):
        length, start = _length(data, at)
        found.append(data[at : start + length])
        at = start + length
    return found


def _wrap(tag: int, content: bytes) -> bytes:
    size = len(content)
    if size < 0x80:
        return bytes([tag, size]) + content
    encoded = size.to_bytes((size.bit_length() + 7) // 8)
    return bytes([tag, 0x80 | len(encoded)]) + encoded + content
