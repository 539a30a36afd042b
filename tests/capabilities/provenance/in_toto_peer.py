"""Run by the peers' Python: makes keys, links and layouts with in-toto's own library.

Arguments: the directory to write to. Left there: ``alice.pem`` (private), ``alice.pub``, links of
the steps ``write`` and ``package``, and layouts, each once as Metablock and once as DSSE.
"""

import os
import sys
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from in_toto.models.layout import Inspection, Layout, Step
from in_toto.models.metadata import Envelope, Metablock
from in_toto.runlib import in_toto_run
from securesystemslib.signer import CryptoSigner, SSlibKey

root = Path(sys.argv[1])
MAKERS = {
    "alice": ed25519.Ed25519PrivateKey.generate,
    "bob": lambda: ec.generate_private_key(ec.SECP256R1()),
    "carol": lambda: rsa.generate_private_key(65537, 2048),
}
signers = {}
for name, make in MAKERS.items():
    private = make()
    (root / f"{name}.pem").write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    (root / f"{name}.pub").write_bytes(
        private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    signers[name] = CryptoSigner(private, SSlibKey.from_crypto(private.public_key()))


def keys(*names):
    found = {}
    for name in names:
        key = signers[name].public_key
        found[key.keyid] = {"keyid": key.keyid, **key.to_dict()}
    return found


def ids(*names):
    return [signers[name].public_key.keyid for name in names]


def layout(first, second, inspections=(), threshold=1):
    write = Step(name="write", expected_materials=[["DISALLOW", "*"]])
    write.expected_products = first
    write.pubkeys, write.threshold = ids("alice", "carol"), threshold
    package = Step(
        name="package",
        expected_materials=[["MATCH", "*", "WITH", "PRODUCTS", "FROM", "write"], ["DISALLOW", "*"]],
    )
    package.expected_products = second
    package.pubkeys = ids("bob")
    made = Layout(steps=[write, package], inspect=list(inspections), keys=keys(*MAKERS))
    made.set_relative_expiration(days=30)
    return made


def save(made, name):
    block = Metablock(signed=made)
    block.create_signature(signers["alice"])
    block.dump(root / f"{name}.layout")
    envelope = Envelope.from_signable(made)
    envelope.create_signature(signers["alice"])
    envelope.dump(root / f"{name}.dsse.layout")


work = root / "work"
work.mkdir()
os.chdir(work)


def run(step, who, command, materials, dsse):
    in_toto_run(
        step,
        materials,
        ["."],
        command,
        signer=signers[who],
        metadata_directory=str(root),
        use_dsse=dsse,
    )


run("write", "alice", ["sh", "-c", "echo one > app.py"], ["."], dsse=False)
(work / "app.py").unlink()
run("write", "carol", ["sh", "-c", "echo one > app.py"], ["."], dsse=True)
run("package", "bob", ["sh", "-c", "cp app.py app.tar"], ["."], dsse=True)

closed = [
    ["CREATE", "app.tar"],
    ["MATCH", "app.py", "WITH", "PRODUCTS", "FROM", "write"],
    ["DISALLOW", "*"],
]
inspection = Inspection(
    name="untouched",
    expected_materials=[["MATCH", "*", "WITH", "PRODUCTS", "FROM", "package"], ["DISALLOW", "*"]],
)
inspection.expected_products = [
    ["MATCH", "*", "WITH", "PRODUCTS", "FROM", "package"],
    ["DISALLOW", "*"],
]
inspection.set_run_from_string("true")
save(layout([["CREATE", "app.py"], ["DISALLOW", "*"]], closed, [inspection], 2), "closed")
save(
    layout([["CREATE", "app.py"]], [["MATCH", "app.tar", "WITH", "PRODUCTS", "FROM", "package"]]),
    "open",
)
