"""CustomResourceDefinitions: from a definition to served resources.

Source: Kubernetes "CustomResourceDefinition" tasks; apiextensions/v1 types.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from underway.api import schema as schemas
from underway.api.cel.rules import RuleSet, problems_of_schema, ratcheted
from underway.api.kinds.causes import bad
from underway.api.kinds.registration import check_client
from underway.api.objects import Object, deleting, name_of, set_condition
from underway.api.resources import Resource
from underway.base.errors import Cause
from underway.server.catalog import Catalog, Custom, Served
from underway.server.versions import Ask, asking, renaming

STORAGE = "customresourcedefinitions.apiextensions.k8s.io"
CLEANUP = "customresourcecleanup.apiextensions.k8s.io"
_LABEL = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")


def names_of(crd: Object) -> Object:
    """``spec.names`` with what the server fills in."""
    spec = crd.get("spec") or {}
    names = dict(spec.get("names") or {})
    kind = names.get("kind", "")
    names.setdefault("singular", kind.lower())
    names.setdefault("listKind", f"{kind}List" if kind else "")
    return names


def establish(crd: Object, old: Object | None, catalog: Catalog, now: str) -> None:
    """Set finalizer, names, versions and conditions of a definition, in place.

    A name that another definition or built-in resource of the group uses is not accepted.
    """
    spec = crd["spec"]
    spec["names"] = names_of(crd)
    spec.setdefault("conversion", {"strategy": "None"})
    _default_port(spec["conversion"])
    status = crd["status"] = {**((old or {}).get("status") or {}), **(crd.get("status") or {})}
    stored = list(status.get("storedVersions") or ())
    for version in spec.get("versions") or ():
        if version.get("storage") and version.get("name") not in stored:
            stored.append(version["name"])
    status["storedVersions"] = stored
    conditions = status["conditions"] = list(status.get("conditions") or ())
    if old is None:
        finalizers = crd["metadata"].setdefault("finalizers", [])
        if CLEANUP not in finalizers:
            finalizers.append(CLEANUP)
    taken = _name_taken(crd, catalog)
    if taken:
        accepted = _condition("NamesAccepted", taken[0], taken[1], status="False")
        set_condition(conditions, accepted, now)
        set_condition(
            conditions,
            _condition("Established", "NotAccepted", "not all names are accepted", status="False"),
            now,
        )
        status.setdefault("acceptedNames", {"kind": "", "plural": ""})
        return
    status["acceptedNames"] = dict(spec["names"])
    set_condition(conditions, _condition("NamesAccepted", "NoConflicts", "no conflicts found"), now)
    set_condition(
        conditions,
        _condition("Established", "InitialNamesAccepted", "the initial names have been accepted"),
        now,
    )


def _default_port(conversion: Object) -> None:
    service = ((conversion.get("webhook") or {}).get("clientConfig") or {}).get("service")
    if service:
        service.setdefault("port", 443)


def _condition(kind: str, reason: str, message: str, status: str = "True") -> Object:
    return {"type": kind, "status": status, "reason": reason, "message": message}


def _name_taken(crd: Object, catalog: Catalog) -> tuple[str, str] | None:
    names, group, own = names_of(crd), crd["spec"].get("group", ""), name_of(crd)
    for served in catalog:
        resource = served.resource
        if resource.group != group or (served.custom and served.custom.definition == own):
            continue
        if resource.plural == names.get("plural"):
            return "PluralConflict", f'"{resource.plural}" is already in use'
        if resource.kind == names.get("kind"):
            return "KindConflict", f'"{resource.kind}" is already in use'
        if resource.singular and resource.singular == names["singular"]:
            return "SingularConflict", f'"{resource.singular}" is already in use'
        clash = set(resource.short_names) & set(names.get("shortNames") or ())
        if clash:
            return "ShortNamesConflict", f'"{sorted(clash)[0]}" is already in use'
    return None


def validate(crd: Object) -> list[Cause]:
    """What makes a definition unusable."""
    spec = crd.get("spec") or {}
    names, group = spec.get("names") or {}, spec.get("group") or ""
    versions = spec.get("versions") or []
    found: list[Cause] = []

    def required(field: str, text: str = "") -> None:
        message = f"Required value: {text}" if text else "Required value"
        found.append(Cause(field, message, "FieldValueRequired"))

    if not group:
        required("spec.group")
    elif "." not in group:
        found.append(
            Cause(
                "spec.group",
                f'Invalid value: "{group}": should be a domain with at least one dot',
            )
        )
    for field in ("plural", "kind"):
        if not names.get(field):
            required(f"spec.names.{field}")
    wanted = f"{names.get('plural', '')}.{group}"
    if names.get("plural") and group and name_of(crd) != wanted:
        found.append(
            Cause(
                "metadata.name",
                f'Invalid value: "{name_of(crd)}": must be spec.names.plural+"."+spec.group',
            )
        )
    if names.get("plural") and not _LABEL.fullmatch(names["plural"]):
        found.append(
            Cause("spec.names.plural", f'Invalid value: "{names["plural"]}": no DNS-1035 label')
        )
    if spec.get("scope") not in ("Namespaced", "Cluster"):
        found.append(
            Cause(
                "spec.scope",
                f'Unsupported value: "{spec.get("scope") or ""}": supported values: "Cluster",'
                ' "Namespaced"',
                "FieldValueNotSupported",
            )
        )
    found += _version_problems(versions)
    found += _conversion_problems(spec.get("conversion") or {})
    return found


def _conversion_problems(conversion: Object) -> list[Cause]:
    at = "spec.conversion"
    strategy, webhook = conversion.get("strategy") or "None", conversion.get("webhook")
    if strategy not in ("None", "Webhook"):
        text = f'Unsupported value: "{strategy}": supported values: "None", "Webhook"'
        return [Cause(f"{at}.strategy", text, "FieldValueNotSupported")]
    if strategy == "None":
        if webhook is None:
            return []
        text = "Forbidden: should not be set when strategy is not set to Webhook"
        return [Cause(f"{at}.webhook", text, "FieldValueForbidden")]
    config = (webhook or {}).get("clientConfig")
    if config is None:
        text = "Required value: required when strategy is set to Webhook"
        return [Cause(f"{at}.webhook.clientConfig", text, "FieldValueRequired")]
    found = check_client(config, f"{at}.webhook.clientConfig")
    reviews = (webhook or {}).get("conversionReviewVersions") or []
    if not reviews:
        field = f"{at}.webhook.conversionReviewVersions"
        found.append(Cause(field, "Required value", "FieldValueRequired"))
    elif "v1" not in reviews:
        text = "must include at least one of v1"
        found.append(bad(f"{at}.webhook.conversionReviewVersions", reviews, text))
    return found


def check_stored(crd: Object) -> list[Cause]:
    """What is wrong with ``status.storedVersions``: the definition must have all of them, and they
    the storage version.
    """
    versions, found = crd["spec"].get("versions") or (), []
    known = {version.get("name") for version in versions}
    stored = (crd.get("status") or {}).get("storedVersions") or ()
    current = next((version["name"] for version in versions if version.get("storage")), "")
    if current not in stored:
        found.append(
            bad("status.storedVersions", stored, f"must have the storage version {current}")
        )
    for index, version in enumerate(stored):
        if version not in known:
            text = (
                f'Invalid value: "{version}": missing from spec.versions; {version} was previously'
                " a storage version, and must remain in spec.versions until a storage migration"
                f" ensures no data remains persisted in {version} and removes {version} from"
                " status.storedVersions"
            )
            found.append(Cause(f"status.storedVersions[{index}]", text))
    return found


def _version_problems(versions: list[Object]) -> list[Cause]:
    if not versions:
        return [Cause("spec.versions", "Required value", "FieldValueRequired")]
    found = [
        Cause(f"spec.versions[{index}]", "Required value: a version", "FieldValueRequired")
        for index, version in enumerate(versions)
        if not isinstance(version, dict) or not version.get("name")
    ]
    if found:
        return found
    if sum(bool(version.get("storage")) for version in versions) != 1:
        found.append(
            Cause(
                "spec.versions",
                f"Invalid value: {len(versions)} versions: must have exactly one version marked as"
                " storage version",
            )
        )
    for index, version in enumerate(versions):
        openapi = (version.get("schema") or {}).get("openAPIV3Schema")
        at = f"spec.versions[{index}].schema.openAPIV3Schema"
        if openapi is None:
            found.append(Cause(at, "Required value: schemas are required", "FieldValueRequired"))
            continue
        if openapi.get("type") != "object":
            found.append(Cause(f"{at}.type", "Required value: must be object at the root"))
        unstructural = _not_structural(openapi, at)
        found += unstructural or problems_of_schema(schemas.from_openapi(openapi), at)
    return found


def _not_structural(node: Object, at: str) -> list[Cause]:
    """Where a schema leaves types open that a structural schema names."""
    found: list[Cause] = []
    exempt = node.get("x-kubernetes-int-or-string") or node.get(
        "x-kubernetes-preserve-unknown-fields"
    )
    if not node.get("type") and not exempt:
        text = "Required value: must not be empty for specified object fields"
        found.append(Cause(f"{at}.type", text, "FieldValueRequired"))
    for name, child in (node.get("properties") or {}).items():
        found += _not_structural(child or {}, f"{at}.properties[{name}]")
    if node.get("type") == "array" and not isinstance(node.get("items"), dict):
        found.append(
            Cause(f"{at}.items", "Required value: must be specified", "FieldValueRequired")
        )
    for name in ("items", "additionalProperties"):
        if isinstance(node.get(name), dict):
            found += _not_structural(node[name], f"{at}.{name}")
    return found


def is_established(crd: Object) -> bool:
    """Whether its resources are served."""
    conditions = (crd.get("status") or {}).get("conditions") or ()
    return any(c.get("type") == "Established" and c.get("status") == "True" for c in conditions)


def served_versions(crd: Object, ask: Ask) -> list[Served]:
    """The resources a definition brings, those of the storage version first.

    ``ask`` asks a conversion webhook.
    """
    if not is_established(crd):
        return []
    spec = crd["spec"]
    names = names_of(crd)
    versions = [v for v in spec.get("versions") or () if v.get("served")]
    stored = next((v["name"] for v in spec["versions"] if v.get("storage")), "")
    stored_version = f"{spec['group']}/{stored}"
    versions.sort(key=lambda version: bool(version["name"] != stored))
    return [_served(crd, names, version, stored_version, ask) for version in versions]


def _served(crd: Object, names: Object, version: Object, stored: str, ask: Ask) -> Served:
    spec = crd["spec"]
    subresources = version.get("subresources") or {}
    openapi = (version.get("schema") or {}).get("openAPIV3Schema") or {}
    schema = schemas.from_openapi(openapi)
    custom = Custom(
        definition=name_of(crd),
        schema=schema,
        openapi=openapi,
        rules=RuleSet(schema),
        defaulted=_has_default(openapi),
        columns=tuple(version.get("additionalPrinterColumns") or ()),
        status="status" in subresources,
        scale=subresources.get("scale"),
        selectable=tuple(
            each["jsonPath"].removeprefix(".") for each in version.get("selectableFields") or ()
        ),
    )
    resource = Resource(
        spec["group"],
        version["name"],
        names["plural"],
        names["kind"],
        spec.get("scope") == "Namespaced",
        names["singular"],
        tuple(names.get("shortNames") or ()),
        tuple(names.get("categories") or ()),
        subresources=tuple(name for name in ("scale", "status") if name in subresources),
    )
    shown = resource.api_version
    if deleting(crd):
        verbs = tuple(verb for verb in resource.verbs if verb != "create")
        resource = replace(resource, verbs=verbs)
    known = {f"{spec['group']}/{each}" for each in crd["status"].get("storedVersions") or ()}
    conversion = spec.get("conversion") or {}

    def to(target: str) -> Callable[[Object], Object]:
        if conversion.get("strategy") != "Webhook":
            return renaming(target)
        return asking(ask, conversion["webhook"]["clientConfig"], target)

    return Served(
        resource,
        resource.group_resource,
        stored,
        to_stored=to(stored) if shown != stored else None,
        to_shown=to(shown) if known | {stored} != {shown} else None,
        custom=custom,
        convert=to(shown),
    )


def _has_default(node: Any) -> bool:
    if isinstance(node, list):
        return any(_has_default(each) for each in node)
    return isinstance(node, dict) and (
        "default" in node or any(_has_default(each) for each in node.values())
    )


def problems(custom: Custom, new: Object, old: Object | None = None) -> list[Cause]:
    """What breaks the schema and its rules in a custom resource.

    With ``old``, the object before the update, what was wrong already and stays as it is passes.
    Source: KEP-4008, CRD validation ratcheting.
    """
    found = schemas.validate(custom.schema, new)
    if found and old is not None:
        found = ratcheted(custom.schema, found, new, old)
    # Rules expect values of the schema's types; what is merely out of range does not hinder them.
    if any(each.reason == "FieldValueTypeInvalid" for each in found):
        return found
    return [*found, *custom.rules.check(new, old)]


def scale_paths(custom: Custom) -> tuple[str, str, str]:
    """The paths of spec replicas, status replicas and the label selector, without leading dot."""
    scale = custom.scale or {}
    return (
        str(scale.get("specReplicasPath", "")).removeprefix("."),
        str(scale.get("statusReplicasPath", "")).removeprefix("."),
        str(scale.get("labelSelectorPath", "")).removeprefix("."),
    )
