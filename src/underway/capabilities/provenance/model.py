"""Image policies as values: what is demanded, what is known of an image, and the verdict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from underway.api.resources import Resource
from underway.api.selectors import EVERYTHING, LabelSelector
from underway.kit.ports import ScanSummary, Signed

IMAGEPOLICIES = Resource(
    "images.underway.dev", "v1alpha1", "imagepolicies", "ImagePolicy", namespaced=False,
    singular="imagepolicy", subresources=("status",),
)  # fmt: skip
IMAGESECURITYPOLICIES = Resource(
    "kritis.grafeas.io", "v1beta1", "imagesecuritypolicies", "ImageSecurityPolicy",
    singular="imagesecuritypolicy", subresources=("status",),
)  # fmt: skip
GENERICATTESTATIONPOLICIES = Resource(
    "kritis.grafeas.io", "v1beta1", "genericattestationpolicies", "GenericAttestationPolicy",
    singular="genericattestationpolicy", subresources=("status",),
)  # fmt: skip
ATTESTATIONAUTHORITIES = Resource(
    "kritis.grafeas.io", "v1beta1", "attestationauthorities", "AttestationAuthority",
    singular="attestationauthority",
)  # fmt: skip
CLUSTERIMAGEPOLICIES = Resource(
    "policy.sigstore.dev", "v1beta1", "clusterimagepolicies", "ClusterImagePolicy",
    namespaced=False, singular="clusterimagepolicy", subresources=("status",),
)  # fmt: skip
POLICIES = (
    IMAGEPOLICIES, IMAGESECURITYPOLICIES, GENERICATTESTATIONPOLICIES, CLUSTERIMAGEPOLICIES,
)  # fmt: skip
BREAK_GLASS = "images.underway.dev/break-glass"
KRITIS_BREAK_GLASS = "kritis.grafeas.io/breakglass"
VIOLATION_LABEL = "images.underway.dev/violation"

SEVERITIES = ("Unknown", "Negligible", "Low", "Medium", "High", "Critical")
"""From the least to the worst."""


@dataclass(frozen=True, slots=True)
class Vulnerabilities:
    """Severities are the highest that pass: None forbids all, ``Critical`` passes all.

    ``maximum_unfixed`` is for what has no fix yet. ``stale_allowed`` lets a scan by old
    advisories count.
    """

    maximum: str | None
    maximum_unfixed: str | None
    allowed: tuple[str, ...] = ()
    stale_allowed: bool = False


@dataclass(frozen=True, slots=True)
class Identity:
    """A keyless signer; the pattern fields are regular expressions that must match in full."""

    issuer: str = ""
    subject: str = ""
    issuer_pattern: str = ""
    subject_pattern: str = ""


@dataclass(frozen=True, slots=True)
class Attested:
    """A statement about the image that must be there; each condition is CEL over ``predicate``."""

    name: str
    predicate_type: str
    conditions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Authority:
    """Who must vouch. Without keys and identities, whoever the platform's signer trusts.

    ``keys`` are PEM. Without ``attestations`` a signature is asked for, else each of them.
    ``static`` is pass or fail, whatever is known.
    """

    name: str
    keys: tuple[str, ...] = ()
    identities: tuple[Identity, ...] = ()
    attestations: tuple[Attested, ...] = ()
    static: str = ""


@dataclass(frozen=True)
class Policy:
    """One policy, whatever kind it was written as.

    ``namespace`` binds a namespaced kind to its own. ``images`` are the globs it is about;
    ``exempt`` those it lets through. Each of ``every`` must vouch, and one of ``one_of``.
    ``broken`` says what is wrong with it: a broken policy refuses everything it may be about.
    """

    kind: str
    name: str
    uid: str = ""
    generation: int = 0
    namespace: str = ""
    namespaces: LabelSelector = EVERYTHING
    images: tuple[str, ...] = ("**",)
    exempt: tuple[str, ...] = ()
    vulnerabilities: Vulnerabilities | None = None
    every: tuple[Authority, ...] = ()
    one_of: tuple[Authority, ...] = ()
    digest_required: bool = False
    enforced: bool = True
    break_glass: bool = True
    broken: str = ""

    @property
    def title(self) -> str:
        """``Kind name``, as messages have it."""
        place = f"{self.namespace}/" if self.namespace else ""
        return f"{self.kind} {place}{self.name}"

    @property
    def needs_signatures(self) -> bool:
        """Whether signatures or attestations have to be fetched."""
        return bool(self.every or self.one_of)


@dataclass(frozen=True)
class Vouched:
    """A verified signature, or with a ``statement`` a verified attestation."""

    by: Signed
    key: str = ""
    statement: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Evidence:
    """What is known of one image. ``scan_failure`` and ``vouched_failure`` say why it is not."""

    digest: str
    scan: ScanSummary | None = None
    scan_failure: str = ""
    vouched: tuple[Vouched, ...] = ()
    vouched_failure: str = ""


@dataclass(frozen=True, slots=True)
class Violation:
    """Why an image may not run, and what to do about it."""

    policy: str
    rule: str
    message: str
    remedy: str

    def as_dict(self) -> dict[str, str]:
        """The violation for ``-o json``."""
        return {
            "policy": self.policy,
            "rule": self.rule,
            "message": self.message,
            "remedy": self.remedy,
        }

    def __str__(self) -> str:
        return f"{self.policy}, rule {self.rule}: {self.message} (to do: {self.remedy})"
