"""The registry's errors and stored values.

Source: opencontainers/distribution-spec 1.1, error codes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import msgspec

from underway.base.errors import UnderwayError


@dataclass(frozen=True, slots=True)
class Scope:
    """Actions on one resource, as tokens grant them: ``repository:team/app:pull,push``."""

    kind: str
    name: str
    actions: frozenset[str]


class RegistryError(UnderwayError):
    """An error with a code of the distribution specification."""

    spec_code: ClassVar[str] = "UNKNOWN"
    code = 400

    def body(self) -> dict[str, Any]:
        """The error as the specification writes it."""
        return {
            "errors": [
                {"code": self.spec_code, "message": self.message, "detail": self.details or None}
            ]
        }


class BlobUnknown(RegistryError):
    """The repository has no such blob."""

    spec_code, code = "BLOB_UNKNOWN", 404


class UploadUnknown(RegistryError):
    """There is no such upload."""

    spec_code, code = "BLOB_UPLOAD_UNKNOWN", 404


class UploadInvalid(RegistryError):
    """The upload cannot go on like this."""

    spec_code, code = "BLOB_UPLOAD_INVALID", 400


class RangeInvalid(RegistryError):
    """The chunk does not begin where the upload stands."""

    spec_code, code = "BLOB_UPLOAD_INVALID", 416


class SizeInvalid(RegistryError):
    """More or less came than was announced."""

    spec_code, code = "SIZE_INVALID", 400


class DigestInvalid(RegistryError):
    """The digest is malformed, or not that of the content."""

    spec_code, code = "DIGEST_INVALID", 400


class ManifestUnknown(RegistryError):
    """The repository has no such manifest."""

    spec_code, code = "MANIFEST_UNKNOWN", 404


class ManifestInvalid(RegistryError):
    """The manifest is malformed."""

    spec_code, code = "MANIFEST_INVALID", 400


class ManifestTooLarge(RegistryError):
    """The manifest is larger than the registry accepts."""

    spec_code, code = "SIZE_INVALID", 413


class ManifestBlobUnknown(RegistryError):
    """The manifest names content that the repository does not have."""

    spec_code, code = "MANIFEST_BLOB_UNKNOWN", 404


class NameInvalid(RegistryError):
    """The repository's name is malformed."""

    spec_code, code = "NAME_INVALID", 400


class NameUnknown(RegistryError):
    """There is no such repository."""

    spec_code, code = "NAME_UNKNOWN", 404


class LoginRequired(RegistryError):
    """No, or wrong, credentials.

    ``challenge`` is the error that the challenge names, if any; ``more`` are scopes it asks for
    beyond what the path tells.
    """

    spec_code, code = "UNAUTHORIZED", 401
    challenge: ClassVar[str] = ""
    more: tuple[Scope, ...] = ()


class Denied(RegistryError):
    """The account may not do this."""

    spec_code, code = "DENIED", 403


class TokenRefused(LoginRequired):
    """The token is not, or no longer, valid."""

    challenge = "invalid_token"


class ScopeInsufficient(LoginRequired):
    """The token is for something else."""

    challenge = "insufficient_scope"

    def __init__(self, message: str, *more: Scope) -> None:
        super().__init__(message)
        self.more = more


class PageInvalid(RegistryError):
    """The number of entries asked for is no number."""

    spec_code, code = "PAGINATION_NUMBER_INVALID", 400


class Immutable(RegistryError):
    """A rule forbids to change or delete the tag."""

    spec_code, code = "PRECONDITION", 412


class PreconditionFailed(RegistryError):
    """Something else has to be done first."""

    spec_code, code = "PRECONDITION", 412


class Unsupported(RegistryError):
    """The registry does not do this."""

    spec_code, code = "UNSUPPORTED", 405


@dataclass(frozen=True, slots=True)
class Stored:
    """A manifest as it is kept."""

    digest: str
    media_type: str
    data: bytes
    id: int = 0


@dataclass(frozen=True, slots=True)
class Blob:
    """Where a blob's bytes are: at a ``place``, or here, as ``data``."""

    digest: str
    size: int
    place: str
    data: bytes | None


@dataclass(frozen=True, slots=True)
class Pushed:
    """The rows of an artifact that was pushed; ``new`` unless the repository had it."""

    project_id: int
    repository_id: int
    artifact_id: int
    new: bool


@dataclass(frozen=True, slots=True)
class Route:
    """What a path asks for.

    ``kind`` is base, catalog, blob, uploads, upload, manifest, tags or referrers; ``reference`` is
    the digest, tag or upload id.
    """

    kind: str
    repository: str = ""
    reference: str = ""


class Access(msgspec.Struct, frozen=True):
    """One thing a robot may do: an action on a resource, as ``push`` on ``repository``."""

    resource: str
    action: str
    effect: str = "allow"


class Permission(msgspec.Struct, frozen=True):
    """What a robot may do where: ``kind`` project or system, ``namespace`` a project, * or /."""

    kind: str
    namespace: str
    access: tuple[Access, ...] = ()


class Robot(msgspec.Struct, frozen=True):
    """A program's account, of one project or (``project`` empty) of the whole registry.

    ``secret_hash`` is the hexadecimal SHA-256 of ``salt`` and secret; ``expires_s`` are seconds
    since 1970, -1 for never.
    """

    id: int
    name: str
    project: str
    permissions: tuple[Permission, ...]
    salt: str
    secret_hash: str
    created_at: str
    expires_s: int = -1
    disabled: bool = False


class Project(msgspec.Struct, frozen=True):
    """What holds for all repositories whose name begins with the project's.

    Everybody may pull from a ``public`` project. A ``sparse`` one takes manifests that name content
    it does not have. One with a ``registry_id`` is a cache of that registry.
    """

    id: int
    name: str
    public: bool = False
    sparse: bool = False
    registry_id: int = 0


@dataclass(frozen=True, slots=True)
class Account:
    """Who asks. Without a name it is a stranger; an administrator may do everything.

    ``kind`` is user, robot or serviceaccount. ``permissions`` are a robot's.
    """

    name: str = ""
    administrator: bool = False
    kind: str = "user"
    id: int = 0
    permissions: tuple[Permission, ...] = ()


@dataclass(frozen=True, slots=True)
class Identity:
    """An account, and what its token is limited to; None where it showed its password."""

    account: Account
    grants: tuple[Scope, ...] | None = None
