"""What this capability is made of."""

from underway.kit import Capability, Route

_HERE = "underway.capabilities.signing"

CAPABILITY = Capability(
    id="signing",
    summary="Sign and verify images; TUF repositories; the Notary service.",
    commands={
        "sign": f"{_HERE}.cli.images:sign",
        "verify": f"{_HERE}.cli.images:verify",
        "attest": f"{_HERE}.cli.images:attest",
        "keys": f"{_HERE}.cli.keys:keys",
        "trust": f"{_HERE}.cli.trust:trust",
        "tuf": f"{_HERE}.cli.tuf:tuf",
    },
    command_summaries={
        "sign": "Sign an image of the registry.",
        "verify": "Check the signatures and attestations of an image.",
        "attest": "Attach a signed statement to an image.",
        "keys": "The platform's signing keys.",
        "trust": "Whose signatures count here.",
        "tuf": "TUF repositories: make, publish, rotate, get.",
    },
    controllers=(f"{_HERE}.controller:setup",),
    routes=(
        Route("notary", f"{_HERE}.routes.notary:app", "notary_port", lazy=True),
        Route("signing", f"{_HERE}.routes.signing:app", "signing_port", lazy=True),
    ),
    provides={"image-signer": f"{_HERE}.backend.signer:image_signer"},
)
