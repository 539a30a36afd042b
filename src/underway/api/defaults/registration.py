"""Defaults of admission webhook configurations.

Source: Kubernetes ``pkg/apis/admissionregistration/v1/defaults.go``.
"""

from __future__ import annotations

from underway.api.defaults.setting import default
from underway.api.objects import Object
from underway.api.shape import items, made, mapping


def webhook_defaults(obj: Object) -> None:
    """Fill in what a validating or mutating configuration left out."""
    for hook in items(obj, "webhooks"):
        default(hook, failurePolicy="Fail", matchPolicy="Equivalent", timeoutSeconds=10)
        made(hook, "namespaceSelector")
        made(hook, "objectSelector")
        if obj.get("kind") == "MutatingWebhookConfiguration":
            default(hook, reinvocationPolicy="Never")
        for rule in items(hook, "rules"):
            default(rule, scope="*")
        service = mapping(hook, "clientConfig").get("service")
        if isinstance(service, dict):
            default(service, port=443)
