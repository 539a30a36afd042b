"""Values of signing, and the error that says why something is not trusted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from underway.base.errors import Forbidden


class Unverified(Forbidden):
    """A signature, certificate or metadata does not prove what it should."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One signature or attestation found on an image, and what came of checking it.

    ``form`` is ``cosign`` (tag), ``bundle`` (referrer) or ``notation``. ``digest`` is the digest
    of the manifest that carries it. ``reason`` says why it was refused and is empty where it
    verified. ``statement`` is an attestation's in-toto statement, ``identity`` and ``issuer`` are
    those of a short-lived certificate.
    """

    form: str
    digest: str
    key_id: str = ""
    identity: str = ""
    issuer: str = ""
    reason: str = ""
    statement: Mapping[str, Any] = field(default_factory=dict)

    @property
    def verified(self) -> bool:
        """Whether it proves what it says."""
        return not self.reason

    def as_dict(self) -> dict[str, Any]:
        """The finding for ``-o json``."""
        return {
            "form": self.form,
            "digest": self.digest,
            "verified": self.verified,
            **({"keyId": self.key_id} if self.key_id else {}),
            **({"identity": self.identity, "issuer": self.issuer} if self.identity else {}),
            **({"reason": self.reason} if self.reason else {}),
            **({"predicateType": self.statement["predicateType"]} if self.statement else {}),
        }
