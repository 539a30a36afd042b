"""Related objects: what a customize hook asked to see.

Source: Metacontroller's API reference, "Customize Hook".
"""

from __future__ import annotations

from dataclasses import dataclass

from underway.api import selectors
from underway.api.objects import Object, labels_of, name_of, namespace_of
from underway.api.resources import Resource
from underway.base.errors import Invalid
from underway.capabilities.operators.model import RelatedRule


@dataclass(frozen=True)
class Related:
    """A rule, its resource, and the namespace it is confined to (empty: none)."""

    rule: RelatedRule
    resource: Resource
    namespace: str
    labels: selectors.LabelSelector
    namespaces: selectors.LabelSelector

    @property
    def title(self) -> str:
        """How hooks know it: ``ConfigMap.v1``."""
        return f"{self.resource.kind}.{self.resource.api_version}"

    def matches(self, obj: Object, namespace_labels: dict[str, str] | None) -> bool:
        """Whether the rule asks for the object; with the labels of its namespace."""
        if self.namespace and namespace_of(obj) != self.namespace:
            return False
        if self.rule.names:
            return name_of(obj) in self.rule.names
        if self.rule.namespace_selector is not None and not self.namespaces.matches(
            namespace_labels
        ):
            return False
        return self.labels.matches(labels_of(obj))


def related(rule: RelatedRule, resource: Resource, parent: Object, version: str) -> Related:
    """A rule made ready for a parent.

    Raises:
        Invalid: it combines what excludes each other, or looks into a namespace it may not.
    """
    what = f"the related {rule.resource} of {name_of(parent)}"
    selecting = rule.label_selector is not None or rule.namespace_selector is not None
    if rule.names and selecting:
        raise Invalid(f"{what}: names cannot be combined with a selector")
    if rule.namespace and rule.namespace_selector is not None:
        raise Invalid(f"{what}: namespace cannot be combined with namespaceSelector")
    namespace = rule.namespace if resource.namespaced else ""
    home = namespace_of(parent)
    if version == "v1" and home and resource.namespaced:
        if namespace not in ("", home):
            raise Invalid(
                f"{what}: namespace {namespace} is not the parent's ({home})",
                hint="hooks of version v2 may look into other namespaces",
            )
        namespace = home
    return Related(
        rule,
        resource,
        namespace,
        selectors.from_object(rule.label_selector or {}),
        selectors.from_object(rule.namespace_selector or {}),
    )
