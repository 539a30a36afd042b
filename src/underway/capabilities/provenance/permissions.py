"""What the controller of image policies may do, beside reading what informers show."""

from __future__ import annotations

from underway.kit import Role, Rule

_POLICIES = "images.underway.dev kritis.grafeas.io policy.sigstore.dev"
_WEBHOOKS = "mutatingwebhookconfigurations validatingwebhookconfigurations"
_REGISTRATION = "admissionregistration.k8s.io"

ROLES = {
    "provenance": Role(
        "image-policy-controller",
        (
            Rule("get patch update", _POLICIES, "*"),
            # Its own certificate and registration alone, by name.
            Rule("create", "-", "secrets"),
            Rule("get list patch update", "-", "secrets", "image-policy-webhook"),
            Rule("create", _REGISTRATION, _WEBHOOKS),
            Rule(
                "delete get list patch update",
                _REGISTRATION,
                _WEBHOOKS,
                "image-policies.underway.dev",
            ),
            Rule("patch", "-", "pods"),  # a label on what no policy would let in
            Rule("get", "-", "namespaces"),
            Rule("create", "authorization.k8s.io", "subjectaccessreviews"),
        ),
    ),
}
