"""The roles and bindings every cluster starts with.

Source: Kubernetes reference, "Default roles and role bindings".
"""

from __future__ import annotations

from underway.api.objects import Object
from underway.server.identity import (
    AUTHENTICATED,
    MASTERS,
    NODES,
    UNAUTHENTICATED,
)

_API = "rbac.authorization.k8s.io"
_LABELS = {"kubernetes.io/bootstrapping": "rbac-defaults"}
_READ = ("get", "list", "watch")
_WRITE = ("create", "delete", "deletecollection", "patch", "update")


def _rule(verbs: tuple[str, ...], groups: str, resources: str, names: str = "") -> Object:
    """One rule; ``groups`` and ``resources`` are words (``-`` is the core group)."""
    rule: Object = {
        "verbs": list(verbs),
        "apiGroups": ["" if group == "-" else group for group in groups.split()],
        "resources": resources.split(),
    }
    if names:
        rule["resourceNames"] = names.split()
    return rule


def _paths(paths: str) -> Object:
    return {"verbs": ["get"], "nonResourceURLs": paths.split()}


_VIEWED = (
    (
        "-",
        (
            "configmaps endpoints persistentvolumeclaims persistentvolumeclaims/status pods"
            " replicationcontrollers replicationcontrollers/scale serviceaccounts services"
            " services/status bindings events limitranges namespaces/status pods/log pods/status"
            " replicationcontrollers/status resourcequotas resourcequotas/status namespaces"
        ),
    ),
    ("discovery.k8s.io", "endpointslices"),
    (
        "apps",
        (
            "controllerrevisions daemonsets daemonsets/status deployments deployments/scale"
            " deployments/status replicasets replicasets/scale replicasets/status statefulsets"
            " statefulsets/scale statefulsets/status"
        ),
    ),
    ("autoscaling", "horizontalpodautoscalers horizontalpodautoscalers/status"),
    ("batch", "cronjobs cronjobs/status jobs jobs/status"),
    ("policy", "poddisruptionbudgets poddisruptionbudgets/status"),
    ("networking.k8s.io", "ingresses ingresses/status networkpolicies"),
)
_EDITED = (
    (
        "-",
        (
            "configmaps endpoints persistentvolumeclaims pods pods/attach pods/exec"
            " pods/portforward pods/proxy replicationcontrollers replicationcontrollers/scale"
            " secrets serviceaccounts services services/proxy events"
        ),
    ),
    (
        "apps",
        (
            "daemonsets deployments deployments/rollback deployments/scale replicasets"
            " replicasets/scale statefulsets statefulsets/scale"
        ),
    ),
    ("autoscaling", "horizontalpodautoscalers"),
    ("batch", "cronjobs jobs"),
    ("policy", "poddisruptionbudgets"),
    ("networking.k8s.io", "ingresses networkpolicies"),
)

_VIEW_RULES = [_rule(_READ, group, resources) for group, resources in _VIEWED]
_EDIT_RULES = [
    *(_rule(_WRITE, group, resources) for group, resources in _EDITED),
    _rule(_READ, "-", "pods/attach pods/exec pods/portforward pods/proxy secrets services/proxy"),
    _rule(("create",), "-", "pods/eviction serviceaccounts/token"),
    _rule(("impersonate",), "-", "serviceaccounts"),
    _rule((*_READ, *_WRITE), "coordination.k8s.io", "leases"),
]
_ADMIN_RULES = [
    _rule(("create",), "authorization.k8s.io", "localsubjectaccessreviews"),
    _rule((*_READ, *_WRITE), _API, "rolebindings roles"),
]
# What the Node authorizer does not look at more closely. Source: NodeRules of upstream's policy.
NODE_RULES = [
    _rule(("create",), "authentication.k8s.io", "tokenreviews"),
    _rule(("create",), "authorization.k8s.io", "subjectaccessreviews localsubjectaccessreviews"),
    _rule(_READ, "-", "services"),
    _rule(("create", "patch", "update"), "- events.k8s.io", "events"),
    _rule(("create", *_READ), "certificates.k8s.io", "certificatesigningrequests"),
    _rule(_READ, "node.k8s.io", "runtimeclasses"),
    _rule(_READ, "storage.k8s.io", "csidrivers"),
    _rule(_READ, "certificates.k8s.io", "clustertrustbundles"),
]
_PROXIER_RULES = [
    _rule(_READ, "-", "services endpoints"),
    _rule(_READ, "-", "nodes"),
    _rule(_READ, "discovery.k8s.io", "endpointslices"),
    _rule(_READ, "networking.k8s.io", "servicecidrs networkpolicies"),
    _rule(_READ, "-", "namespaces"),
    _rule(("create", "patch", "update"), "- events.k8s.io", "events"),
]
_BOOTSTRAPPER_RULES = [
    _rule(("create", *_READ), "certificates.k8s.io", "certificatesigningrequests"),
]
_CSR = "certificates.k8s.io"
_EVERYTHING = [
    {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]},
    {"verbs": ["*"], "nonResourceURLs": ["*"]},
]
_INFO = "/healthz /livez /readyz /version /version/"


def _cluster_role(name: str, rules: list[Object], **more: Object) -> Object:
    return {
        "apiVersion": f"{_API}/v1",
        "kind": "ClusterRole",
        "metadata": {
            "name": name,
            "labels": {**_LABELS, **more.pop("labels", {})},
            "annotations": {f"{_API}/autoupdate": "true"},
        },
        "rules": rules,
        **more,
    }


def _binding(role: str, *groups: str) -> Object:
    return {
        "apiVersion": f"{_API}/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {
            "name": role,
            "labels": dict(_LABELS),
            "annotations": {f"{_API}/autoupdate": "true"},
        },
        "roleRef": {"apiGroup": _API, "kind": "ClusterRole", "name": role},
        "subjects": [{"apiGroup": _API, "kind": "Group", "name": group} for group in groups],
    }


def _aggregated(name: str, into: str = "") -> Object:
    """A role of users, whose rules are those of the roles labelled so."""
    selector = {"matchLabels": {f"{_API}/aggregate-to-{name}": "true"}}
    labels = {f"{_API}/aggregate-to-{into}": "true"} if into else {}
    rule = {"clusterRoleSelectors": [selector]}
    return _cluster_role(name, [], aggregationRule=rule, labels=labels)


def _aggregate(to: str, rules: list[Object]) -> Object:
    """What such a role has by itself."""
    labels = {f"{_API}/aggregate-to-{to}": "true"}
    return _cluster_role(f"system:aggregate-to-{to}", rules, labels=labels)


def _reviews() -> list[Object]:
    return [
        _rule(("create",), "authorization.k8s.io", "selfsubjectaccessreviews"),
        _rule(("create",), "authorization.k8s.io", "selfsubjectrulesreviews"),
        _rule(("create",), "authentication.k8s.io", "selfsubjectreviews"),
    ]


def cluster_roles() -> list[Object]:
    """The default ClusterRoles."""
    return [
        _cluster_role("cluster-admin", _EVERYTHING),
        _aggregate("admin", _ADMIN_RULES),
        _aggregate("edit", _EDIT_RULES),
        _aggregate("view", _VIEW_RULES),
        _aggregated("admin"),
        _aggregated("edit", into="admin"),
        _aggregated("view", into="edit"),
        _cluster_role(
            "system:discovery", [_paths(f"/api /api/* /apis /apis/* /openapi /openapi/* {_INFO}")]
        ),
        _cluster_role("system:public-info-viewer", [_paths(_INFO)]),
        _cluster_role("system:basic-user", _reviews()),
        _cluster_role("system:node", list(NODE_RULES)),
        _cluster_role("system:node-proxier", list(_PROXIER_RULES)),
        _cluster_role("system:node-bootstrapper", list(_BOOTSTRAPPER_RULES)),
        _cluster_role(
            f"system:{_CSR}:certificatesigningrequests:nodeclient",
            [_rule(("create",), _CSR, "certificatesigningrequests/nodeclient")],
        ),
        _cluster_role(
            f"system:{_CSR}:certificatesigningrequests:selfnodeclient",
            [_rule(("create",), _CSR, "certificatesigningrequests/selfnodeclient")],
        ),
        _cluster_role(
            f"system:{_CSR}:certificatesigningrequests:selfnodeserver",
            [_rule(("create",), _CSR, "certificatesigningrequests/selfnodeserver")],
        ),
        *(
            _cluster_role(
                f"system:{_CSR}:{name}-approver",
                [_rule(("approve",), _CSR, "signers", f"kubernetes.io/{name}")],
            )
            for name in (
                "kube-apiserver-client",
                "kube-apiserver-client-kubelet",
                "kubelet-serving",
            )
        ),
        _cluster_role(
            "system:auth-delegator",
            [
                _rule(("create",), "authentication.k8s.io", "tokenreviews"),
                _rule(("create",), "authorization.k8s.io", "subjectaccessreviews"),
            ],
        ),
        _cluster_role(
            "system:service-account-issuer-discovery",
            [_paths("/.well-known/openid-configuration /openid/v1/jwks")],
        ),
        _cluster_role("system:monitoring", [_paths(f"/metrics {_INFO}")]),
        _cluster_role(
            "system:kube-controller-manager",
            # What controllers share: copies of the cluster, and the telling of events.
            [_rule(_READ, "*", "*"), _rule(("create", "patch", "update"), "-", "events")],
        ),
    ]


def cluster_role_bindings() -> list[Object]:
    """The default ClusterRoleBindings."""
    manager = _binding("system:kube-controller-manager")
    manager["subjects"] = [
        {"apiGroup": _API, "kind": "User", "name": "system:kube-controller-manager"}
    ]
    return [
        manager,
        _binding("cluster-admin", MASTERS),
        _binding("system:discovery", AUTHENTICATED),
        _binding("system:public-info-viewer", AUTHENTICATED, UNAUTHENTICATED),
        _binding("system:basic-user", AUTHENTICATED),
        # The Node authorizer answers for nodes; this is what nodes read for Services and DNS.
        _binding("system:node-proxier", NODES),
        _binding("system:service-account-issuer-discovery", "system:serviceaccounts"),
    ]
