"""Which resources exist: names, kinds, scope and short names of the built-in ones.

Source: Kubernetes API reference 1.37; short names and categories as ``kubectl api-resources``
prints them.
"""

from __future__ import annotations

from dataclasses import dataclass

RELEASE = "1.37.0"
"""The Kubernetes release whose API this is."""

ALL_VERBS = (
    "create",
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "update",
    "watch",
)


@dataclass(frozen=True, slots=True)
class Resource:
    """One REST resource of one group and version.

    ``group`` is empty for the core group. ``subresources`` are the names served below an object.
    """

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True
    singular: str = ""
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    verbs: tuple[str, ...] = ALL_VERBS
    subresources: tuple[str, ...] = ()

    @property
    def api_version(self) -> str:
        """``v1`` or ``group/version``."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def list_kind(self) -> str:
        """The kind of a list of these."""
        return f"{self.kind}List"

    @property
    def group_resource(self) -> str:
        """``deployments.apps``, or ``pods`` in the core group, as error messages name it."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    def path(self, namespace: str | None = None, name: str = "", subresource: str = "") -> str:
        """The REST path; without a namespace, a namespaced resource across all of them."""
        parts = ["/apis", self.group, self.version] if self.group else ["/api", self.version]
        if self.namespaced and namespace:
            parts += ["namespaces", namespace]
        parts.append(self.plural)
        if name:
            parts.append(name)
        if subresource:
            parts.append(subresource)
        return "/".join(parts)


def _core(
    plural: str,
    kind: str,
    *,
    namespaced: bool = True,
    short: tuple[str, ...] = (),
    categories: tuple[str, ...] = (),
    sub: tuple[str, ...] = (),
    verbs: tuple[str, ...] = ALL_VERBS,
) -> Resource:
    return Resource("", "v1", plural, kind, namespaced, kind.lower(), short, categories, verbs, sub)


def _group(
    group: str,
    plural: str,
    kind: str,
    *,
    version: str = "v1",
    namespaced: bool = True,
    short: tuple[str, ...] = (),
    categories: tuple[str, ...] = (),
    sub: tuple[str, ...] = (),
    verbs: tuple[str, ...] = ALL_VERBS,
) -> Resource:
    return Resource(
        group, version, plural, kind, namespaced, kind.lower(), short, categories, verbs, sub
    )


_ALL = ("all",)
_NO_COLLECTION = tuple(verb for verb in ALL_VERBS if verb != "deletecollection")

NAMESPACES = _core(
    "namespaces",
    "Namespace",
    namespaced=False,
    short=("ns",),
    sub=("status", "finalize"),
    verbs=_NO_COLLECTION,
)
NODES = _core("nodes", "Node", namespaced=False, short=("no",), sub=("status", "proxy"))
PODS = _core(
    "pods",
    "Pod",
    short=("po",),
    categories=_ALL,
    sub=(
        "attach",
        "binding",
        "ephemeralcontainers",
        "eviction",
        "exec",
        "log",
        "portforward",
        "proxy",
        "resize",
        "status",
    ),
)
SERVICES = _core("services", "Service", short=("svc",), categories=_ALL, sub=("proxy", "status"))
CONFIGMAPS = _core("configmaps", "ConfigMap", short=("cm",))
SECRETS = _core("secrets", "Secret")
SERVICEACCOUNTS = _core("serviceaccounts", "ServiceAccount", short=("sa",), sub=("token",))
ENDPOINTS = _core("endpoints", "Endpoints", short=("ep",))
EVENTS_CORE = _core("events", "Event", short=("ev",))
EVENTS = _group("events.k8s.io", "events", "Event", short=("ev",))
PERSISTENTVOLUMES = _core(
    "persistentvolumes", "PersistentVolume", namespaced=False, short=("pv",), sub=("status",)
)
PERSISTENTVOLUMECLAIMS = _core(
    "persistentvolumeclaims", "PersistentVolumeClaim", short=("pvc",), sub=("status",)
)
LIMITRANGES = _core("limitranges", "LimitRange", short=("limits",))
RESOURCEQUOTAS = _core("resourcequotas", "ResourceQuota", short=("quota",), sub=("status",))
REPLICATIONCONTROLLERS = _core(
    "replicationcontrollers",
    "ReplicationController",
    short=("rc",),
    categories=_ALL,
    sub=("scale", "status"),
)

PODTEMPLATES = _core("podtemplates", "PodTemplate")
BINDINGS = _core("bindings", "Binding", verbs=("create",))

DEPLOYMENTS = _group(
    "apps", "deployments", "Deployment", short=("deploy",), categories=_ALL, sub=("scale", "status")
)
REPLICASETS = _group(
    "apps", "replicasets", "ReplicaSet", short=("rs",), categories=_ALL, sub=("scale", "status")
)
STATEFULSETS = _group(
    "apps", "statefulsets", "StatefulSet", short=("sts",), categories=_ALL, sub=("scale", "status")
)
DAEMONSETS = _group(
    "apps", "daemonsets", "DaemonSet", short=("ds",), categories=_ALL, sub=("status",)
)
CONTROLLERREVISIONS = _group("apps", "controllerrevisions", "ControllerRevision")

JOBS = _group("batch", "jobs", "Job", categories=_ALL, sub=("status",))
CRONJOBS = _group("batch", "cronjobs", "CronJob", short=("cj",), categories=_ALL, sub=("status",))

HORIZONTALPODAUTOSCALERS_V1 = _group(
    "autoscaling",
    "horizontalpodautoscalers",
    "HorizontalPodAutoscaler",
    short=("hpa",),
    categories=_ALL,
    sub=("status",),
)
HORIZONTALPODAUTOSCALERS = _group(
    "autoscaling",
    "horizontalpodautoscalers",
    "HorizontalPodAutoscaler",
    version="v2",
    short=("hpa",),
    categories=_ALL,
    sub=("status",),
)
POD_DISRUPTION_BUDGETS = _group(
    "policy", "poddisruptionbudgets", "PodDisruptionBudget", short=("pdb",), sub=("status",)
)
ENDPOINTSLICES = _group("discovery.k8s.io", "endpointslices", "EndpointSlice")
LEASES = _group("coordination.k8s.io", "leases", "Lease")
INGRESSES = _group("networking.k8s.io", "ingresses", "Ingress", short=("ing",), sub=("status",))
INGRESSCLASSES = _group("networking.k8s.io", "ingressclasses", "IngressClass", namespaced=False)
NETWORKPOLICIES = _group("networking.k8s.io", "networkpolicies", "NetworkPolicy", short=("netpol",))
ROLES = _group("rbac.authorization.k8s.io", "roles", "Role")
ROLEBINDINGS = _group("rbac.authorization.k8s.io", "rolebindings", "RoleBinding")
CLUSTERROLES = _group("rbac.authorization.k8s.io", "clusterroles", "ClusterRole", namespaced=False)
CLUSTERROLEBINDINGS = _group(
    "rbac.authorization.k8s.io", "clusterrolebindings", "ClusterRoleBinding", namespaced=False
)
PRIORITYCLASSES = _group(
    "scheduling.k8s.io", "priorityclasses", "PriorityClass", namespaced=False, short=("pc",)
)
RUNTIMECLASSES = _group("node.k8s.io", "runtimeclasses", "RuntimeClass", namespaced=False)
STORAGECLASSES = _group(
    "storage.k8s.io", "storageclasses", "StorageClass", namespaced=False, short=("sc",)
)
CUSTOMRESOURCEDEFINITIONS = _group(
    "apiextensions.k8s.io",
    "customresourcedefinitions",
    "CustomResourceDefinition",
    namespaced=False,
    short=("crd", "crds"),
    categories=("api-extensions",),
    sub=("status",),
)
MUTATINGWEBHOOKCONFIGURATIONS = _group(
    "admissionregistration.k8s.io",
    "mutatingwebhookconfigurations",
    "MutatingWebhookConfiguration",
    namespaced=False,
    categories=("api-extensions",),
)
VALIDATINGWEBHOOKCONFIGURATIONS = _group(
    "admissionregistration.k8s.io",
    "validatingwebhookconfigurations",
    "ValidatingWebhookConfiguration",
    namespaced=False,
    categories=("api-extensions",),
)

VALIDATINGADMISSIONPOLICIES = _group(
    "admissionregistration.k8s.io",
    "validatingadmissionpolicies",
    "ValidatingAdmissionPolicy",
    namespaced=False,
    categories=("api-extensions",),
    sub=("status",),
)
VALIDATINGADMISSIONPOLICYBINDINGS = _group(
    "admissionregistration.k8s.io",
    "validatingadmissionpolicybindings",
    "ValidatingAdmissionPolicyBinding",
    namespaced=False,
    categories=("api-extensions",),
)
MUTATINGADMISSIONPOLICIES = _group(
    "admissionregistration.k8s.io",
    "mutatingadmissionpolicies",
    "MutatingAdmissionPolicy",
    namespaced=False,
    categories=("api-extensions",),
)
MUTATINGADMISSIONPOLICYBINDINGS = _group(
    "admissionregistration.k8s.io",
    "mutatingadmissionpolicybindings",
    "MutatingAdmissionPolicyBinding",
    namespaced=False,
    categories=("api-extensions",),
)
APISERVICES = _group(
    "apiregistration.k8s.io",
    "apiservices",
    "APIService",
    namespaced=False,
    categories=("api-extensions",),
    sub=("status",),
)
CERTIFICATESIGNINGREQUESTS = _group(
    "certificates.k8s.io",
    "certificatesigningrequests",
    "CertificateSigningRequest",
    namespaced=False,
    short=("csr",),
    sub=("approval", "status"),
)
CLUSTERTRUSTBUNDLES = _group(
    "certificates.k8s.io", "clustertrustbundles", "ClusterTrustBundle", namespaced=False
)
PODCERTIFICATEREQUESTS = _group(
    "certificates.k8s.io", "podcertificaterequests", "PodCertificateRequest", sub=("status",)
)
FLOWSCHEMAS = _group(
    "flowcontrol.apiserver.k8s.io", "flowschemas", "FlowSchema", namespaced=False, sub=("status",)
)
PRIORITYLEVELCONFIGURATIONS = _group(
    "flowcontrol.apiserver.k8s.io",
    "prioritylevelconfigurations",
    "PriorityLevelConfiguration",
    namespaced=False,
    sub=("status",),
)
IPADDRESSES = _group(
    "networking.k8s.io", "ipaddresses", "IPAddress", namespaced=False, short=("ip",)
)
SERVICECIDRS = _group(
    "networking.k8s.io", "servicecidrs", "ServiceCIDR", namespaced=False, sub=("status",)
)
DEVICECLASSES = _group("resource.k8s.io", "deviceclasses", "DeviceClass", namespaced=False)
DEVICETAINTRULES = _group(
    "resource.k8s.io", "devicetaintrules", "DeviceTaintRule", namespaced=False, sub=("status",)
)
RESOURCECLAIMS = _group("resource.k8s.io", "resourceclaims", "ResourceClaim", sub=("status",))
RESOURCECLAIMTEMPLATES = _group(
    "resource.k8s.io", "resourceclaimtemplates", "ResourceClaimTemplate"
)
RESOURCESLICES = _group("resource.k8s.io", "resourceslices", "ResourceSlice", namespaced=False)
CSIDRIVERS = _group("storage.k8s.io", "csidrivers", "CSIDriver", namespaced=False)
CSINODES = _group("storage.k8s.io", "csinodes", "CSINode", namespaced=False, sub=("status",))
CSISTORAGECAPACITIES = _group("storage.k8s.io", "csistoragecapacities", "CSIStorageCapacity")
VOLUMEATTACHMENTS = _group(
    "storage.k8s.io", "volumeattachments", "VolumeAttachment", namespaced=False, sub=("status",)
)
VOLUMEATTRIBUTESCLASSES = _group(
    "storage.k8s.io",
    "volumeattributesclasses",
    "VolumeAttributesClass",
    namespaced=False,
    short=("vac",),
)
STORAGEVERSIONMIGRATIONS = _group(
    "storagemigration.k8s.io",
    "storageversionmigrations",
    "StorageVersionMigration",
    namespaced=False,
    sub=("status",),
)

_CREATE_ONLY = ("create",)
TOKENREVIEWS = _group(
    "authentication.k8s.io", "tokenreviews", "TokenReview", namespaced=False, verbs=_CREATE_ONLY
)
SELFSUBJECTREVIEWS = _group(
    "authentication.k8s.io",
    "selfsubjectreviews",
    "SelfSubjectReview",
    namespaced=False,
    verbs=_CREATE_ONLY,
)
SUBJECTACCESSREVIEWS = _group(
    "authorization.k8s.io",
    "subjectaccessreviews",
    "SubjectAccessReview",
    namespaced=False,
    verbs=_CREATE_ONLY,
)
LOCALSUBJECTACCESSREVIEWS = _group(
    "authorization.k8s.io",
    "localsubjectaccessreviews",
    "LocalSubjectAccessReview",
    verbs=_CREATE_ONLY,
)
SELFSUBJECTACCESSREVIEWS = _group(
    "authorization.k8s.io",
    "selfsubjectaccessreviews",
    "SelfSubjectAccessReview",
    namespaced=False,
    verbs=_CREATE_ONLY,
)
SELFSUBJECTRULESREVIEWS = _group(
    "authorization.k8s.io",
    "selfsubjectrulesreviews",
    "SelfSubjectRulesReview",
    namespaced=False,
    verbs=_CREATE_ONLY,
)

BUILTIN: tuple[Resource, ...] = tuple(
    value for value in list(globals().values()) if isinstance(value, Resource)
)
