"""The rules of admission webhook configurations.

Source: Kubernetes ``pkg/apis/admissionregistration/validation``; API reference,
``admissionregistration.k8s.io/v1``.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from underway.api import names
from underway.api.cel import compile_expression
from underway.api.kinds.causes import bad, duplicate, one_of, required, unsupported
from underway.api.objects import Object
from underway.api.shape import items, mapping, text
from underway.base.errors import Cause, Invalid

_OPERATIONS = ("*", "CREATE", "UPDATE", "DELETE", "CONNECT")
_SCOPES = ("*", "Cluster", "Namespaced")
_LONGEST_TIMEOUT_S = 30
_CONDITIONS_LIMIT = 64
CONDITION_VARIABLES = ("object", "oldObject", "request", "authorizer")


def check_webhooks(obj: Object) -> list[Cause]:
    """What is wrong with a validating or mutating configuration."""
    found: list[Cause] = []
    seen: set[str] = set()
    for index, hook in enumerate(items(obj, "webhooks")):
        path = f"webhooks[{index}]"
        found += _check_name(text(hook, "name"), f"{path}.name")
        if text(hook, "name") in seen:
            found.append(duplicate(f"{path}.name", text(hook, "name")))
        seen.add(text(hook, "name"))
        found += _check_hook(hook, path)
    return found


def _check_name(name: str, path: str) -> list[Cause]:
    if not name:
        return [required(path)]
    found = [bad(path, name, message) for message in names.dns_subdomain(name)]
    if not found and name.count(".") < 2:
        found.append(
            bad(path, name, "should be a domain with at least three segments separated by dots")
        )
    return found


def _check_hook(hook: Object, path: str) -> list[Cause]:
    found: list[Cause] = []
    versions = hook.get("admissionReviewVersions") or []
    if not versions:
        found.append(required(f"{path}.admissionReviewVersions", "must specify one of v1, v1beta1"))
    elif "v1" not in versions:
        message = "must include at least one of v1, v1beta1"
        found.append(bad(f"{path}.admissionReviewVersions", versions, message))
    for index, rule in enumerate(items(hook, "rules")):
        found += _check_rule(rule, f"{path}.rules[{index}]")
    found += one_of(f"{path}.failurePolicy", hook.get("failurePolicy"), ("Fail", "Ignore"))
    found += one_of(f"{path}.matchPolicy", hook.get("matchPolicy"), ("Equivalent", "Exact"))
    found += one_of(f"{path}.sideEffects", hook.get("sideEffects"), ("None", "NoneOnDryRun"))
    if "reinvocationPolicy" in hook:
        policies = ("IfNeeded", "Never")
        found += one_of(f"{path}.reinvocationPolicy", hook["reinvocationPolicy"], policies)
    timeout_s = hook.get("timeoutSeconds")
    if not isinstance(timeout_s, int) or not 1 <= timeout_s <= _LONGEST_TIMEOUT_S:
        message = f"the timeout value must be between 1 and {_LONGEST_TIMEOUT_S} seconds"
        found.append(bad(f"{path}.timeoutSeconds", timeout_s, message))
    found += _check_conditions(hook, f"{path}.matchConditions")
    return found + check_client(mapping(hook, "clientConfig"), f"{path}.clientConfig")


def _check_rule(rule: Object, path: str) -> list[Cause]:
    found: list[Cause] = []
    for field in ("operations", "apiGroups", "apiVersions", "resources"):
        values = rule.get(field) or []
        if not values:
            found.append(required(f"{path}.{field}"))
        elif len(values) > 1 and "*" in values:
            message = f"if '*' is present, must not specify other {field}"
            found.append(bad(f"{path}.{field}", values, message))
    for index, operation in enumerate(rule.get("operations") or ()):
        if operation not in _OPERATIONS:
            found.append(unsupported(f"{path}.operations[{index}]", operation, sorted(_OPERATIONS)))
    return found + one_of(f"{path}.scope", rule.get("scope"), _SCOPES)


def check_client(config: Object, path: str) -> list[Cause]:
    """What is wrong with a webhook's ``clientConfig``."""
    url, service = config.get("url"), config.get("service")
    if (url is None) == (service is None):
        return [required(path, "exactly one of url or service is required")]
    if service is not None:
        return _check_service(service, f"{path}.service")
    try:
        parts = urlsplit(str(url))
        _ = parts.port
    except ValueError as error:
        return [required(f"{path}.url", f"url must be a valid URL: {error}")]
    found = []
    form = "; desired format: https://host[/path]"
    if parts.scheme != "https":
        message = f"'https' is the only allowed URL scheme{form}"
        found.append(bad(f"{path}.url", parts.scheme, message))
    if not parts.hostname:
        found.append(bad(f"{path}.url", "", f"host must be specified{form}"))
    if parts.username is not None:
        message = "user information is not permitted in the URL"
        found.append(bad(f"{path}.url", parts.username, message))
    if parts.fragment:
        message = "fragments are not permitted in the URL"
        found.append(bad(f"{path}.url", parts.fragment, message))
    if parts.query:
        message = "query parameters are not permitted in the URL"
        found.append(bad(f"{path}.url", parts.query, message))
    return found


def _check_service(service: Object, path: str) -> list[Cause]:
    found = [
        required(f"{path}.{field}", f"service {field} is required")
        for field in ("name", "namespace")
        if not service.get(field)
    ]
    port = service.get("port")
    if not isinstance(port, int) or not 1 <= port <= 65535:
        found.append(
            bad(f"{path}.port", port, "port is not valid: must be between 1 and 65535, inclusive")
        )
    if service.get("path") and not str(service["path"]).startswith("/"):
        found.append(bad(f"{path}.path", service["path"], "must start with a '/'"))
    return found


def _check_conditions(hook: Object, path: str) -> list[Cause]:
    conditions = items(hook, "matchConditions")
    if len(conditions) > _CONDITIONS_LIMIT:
        message = f"must have at most {_CONDITIONS_LIMIT} items"
        return [bad(path, len(conditions), message)]
    found: list[Cause] = []
    seen: set[str] = set()
    for index, condition in enumerate(conditions):
        name, expression = text(condition, "name"), text(condition, "expression")
        at = f"{path}[{index}]"
        if not name:
            found.append(required(f"{at}.name"))
        else:
            found += [bad(f"{at}.name", name, each) for each in names.qualified_name(name)]
        if name in seen:
            found.append(duplicate(f"{at}.name", name))
        seen.add(name)
        if not expression.strip():
            found.append(required(f"{at}.expression"))
            continue
        try:
            compile_expression(expression, CONDITION_VARIABLES)
        except Invalid as error:
            message = f"compilation failed: {error.message}"
            found.append(bad(f"{at}.expression", expression, message))
    return found
