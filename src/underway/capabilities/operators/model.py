"""Views of CompositeController and DecoratorController, and what hooks answer.

Source: metacontroller.k8s.io/v1alpha1, Metacontroller's API reference.
"""

from __future__ import annotations

from typing import Any, Literal, TypeVar

import msgspec

from underway.api.objects import Object, key_of, name_of, namespace_of
from underway.api.resources import Resource
from underway.base.errors import Invalid

GROUP = "metacontroller.k8s.io"
COMPOSITECONTROLLERS = Resource(
    GROUP, "v1alpha1", "compositecontrollers", "CompositeController", namespaced=False
)
DECORATORCONTROLLERS = Resource(
    GROUP, "v1alpha1", "decoratorcontrollers", "DecoratorController", namespaced=False
)
CONTROLLERREVISIONS = Resource(GROUP, "v1alpha1", "controllerrevisions", "ControllerRevision")

Method = Literal["OnDelete", "Recreate", "InPlace", "RollingRecreate", "RollingInPlace"]

T = TypeVar("T")


class _Struct(msgspec.Struct, frozen=True, rename="camel"):
    pass


class ChildId(msgspec.Struct, frozen=True, order=True):
    """Which child: its API group (whatever the version), kind and ``namespace/name``."""

    group: str
    kind: str
    key: str

    @classmethod
    def of(cls, obj: Object, namespace: str = "") -> ChildId:
        """The id of an object; ``namespace`` counts where the object names none."""
        group = str(obj.get("apiVersion", "")).rpartition("/")[0]
        key = key_of(namespace_of(obj) or namespace, name_of(obj))
        return cls(group, str(obj.get("kind", "")), key)


class SecretKey(_Struct):
    """A value in a Secret or ConfigMap."""

    name: str
    namespace: str
    key: str = "ca.crt"


class SecretName(_Struct):
    """A Secret."""

    name: str
    namespace: str


class CaBundle(_Struct):
    """Whom to trust."""

    inline: str | None = None
    secret_ref: SecretKey | None = None
    config_map_ref: SecretKey | None = None


class Authorization(_Struct):
    """A header's scheme and credential."""

    secret_ref: SecretKey
    type: str = "Bearer"


class BasicAuth(_Struct):
    """A user and password."""

    secret_ref: SecretName
    username_key: str = "username"
    password_key: str = "password"  # noqa: S105  # the name of a key


class ServiceReference(_Struct):
    """A Service and its port."""

    name: str
    namespace: str
    port: int = 80
    protocol: str = "http"


class Webhook(_Struct):
    """Where a hook is; ``timeout`` is a Go duration."""

    url: str | None = None
    timeout: str = "10s"
    path: str = ""
    service: ServiceReference | None = None
    response_un_marshall_mode: str | None = None
    ca_bundle: CaBundle | None = None
    authorization: Authorization | None = None
    basic_auth: BasicAuth | None = None


class Hook(_Struct):
    """One hook."""

    version: Literal["v1", "v2"] = "v1"
    webhook: Webhook | None = None


class Hooks(_Struct):
    """A controller's hooks."""

    sync: Hook | None = None
    finalize: Hook | None = None
    customize: Hook | None = None


class ConditionCheck(_Struct):
    """A condition that must hold before a rollout goes on."""

    type: str
    status: str | None = None
    reason: str | None = None


class StatusChecks(_Struct):
    """What must hold for a child that is up to date."""

    conditions: tuple[ConditionCheck, ...] = ()


class UpdateStrategy(_Struct):
    """How children that differ are brought up to date."""

    method: Method = "OnDelete"
    status_checks: StatusChecks = StatusChecks()

    @property
    def rolling(self) -> bool:
        """Whether one child is updated after another."""
        return self.method.startswith("Rolling")


class ChildRule(_Struct):
    """A kind of child, or of attachment."""

    api_version: str
    resource: str
    update_strategy: UpdateStrategy = UpdateStrategy()


class RevisionHistory(_Struct):
    """Which fields of a parent start a rollout."""

    field_paths: tuple[str, ...] = ()


class ParentRule(_Struct):
    """A kind of parent."""

    api_version: str
    resource: str
    label_selector: dict[str, Any] | None = None
    annotation_selector: dict[str, Any] | None = None
    ignore_status_changes: bool = False
    revision_history: RevisionHistory = RevisionHistory()


class CompositeSpec(_Struct):
    """``CompositeController.spec``."""

    parent_resource: ParentRule
    child_resources: tuple[ChildRule, ...] = ()
    hooks: Hooks = Hooks()
    resync_period_seconds: int = 0
    generate_selector: bool = False


class DecoratorSpec(_Struct):
    """``DecoratorController.spec``."""

    resources: tuple[ParentRule, ...]
    attachments: tuple[ChildRule, ...] = ()
    hooks: Hooks = Hooks()
    resync_period_seconds: int = 0


class RelatedRule(_Struct):
    """Objects that a parent's hook wants to see."""

    api_version: str
    resource: str
    label_selector: dict[str, Any] | None = None
    namespace_selector: dict[str, Any] | None = None
    namespace: str = ""
    names: tuple[str, ...] = ()


class CustomizeAnswer(_Struct):
    """What a customize hook answers."""

    related_resources: tuple[RelatedRule, ...] = ()


class SyncAnswer(_Struct):
    """What a sync or finalize hook answers; ``attachments`` are a decorator's children."""

    status: dict[str, Any] | None = None
    children: list[dict[str, Any]] | None = None
    attachments: list[dict[str, Any]] | None = None
    labels: dict[str, str | None] | None = None
    annotations: dict[str, str | None] | None = None
    resync_after_seconds: float = 0
    finalized: bool = False


def spec_of(obj: Object, model: type[T]) -> T:
    """A controller's ``spec``.

    Raises:
        Invalid: it is not of its schema, naming the field.
    """
    try:
        return msgspec.convert(obj.get("spec") or {}, model)
    except msgspec.ValidationError as error:
        raise Invalid(f"{obj.get('kind')} {name_of(obj)}: spec: {error}") from error
