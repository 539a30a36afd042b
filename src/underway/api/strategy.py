"""What the API server changes in an object before it stores it: status, generation, identity.

Source: Kubernetes ``pkg/registry/*/strategy.go`` (PrepareForCreate, PrepareForUpdate) and
apiserver ``pkg/registry/rest`` (BeforeCreate, BeforeUpdate).
"""

from __future__ import annotations

from typing import Any

from underway.api.objects import Object, meta, name_of
from underway.api.qos import qos_class
from underway.api.resources import Resource

# Built-in kinds whose metadata.generation counts changes of what is wanted. Custom resources all
# have one.
_WITH_GENERATION = frozenset(
    {
        ("", "Pod"),
        ("", "ReplicationController"),
        ("admissionregistration.k8s.io", "MutatingWebhookConfiguration"),
        ("admissionregistration.k8s.io", "MutatingAdmissionPolicy"),
        ("admissionregistration.k8s.io", "MutatingAdmissionPolicyBinding"),
        ("admissionregistration.k8s.io", "ValidatingAdmissionPolicy"),
        ("admissionregistration.k8s.io", "ValidatingAdmissionPolicyBinding"),
        ("admissionregistration.k8s.io", "ValidatingWebhookConfiguration"),
        ("apiextensions.k8s.io", "CustomResourceDefinition"),
        ("apps", "DaemonSet"),
        ("apps", "Deployment"),
        ("apps", "ReplicaSet"),
        ("apps", "StatefulSet"),
        ("batch", "CronJob"),
        ("batch", "Job"),
        ("discovery.k8s.io", "EndpointSlice"),
        ("flowcontrol.apiserver.k8s.io", "FlowSchema"),
        ("flowcontrol.apiserver.k8s.io", "PriorityLevelConfiguration"),
        ("networking.k8s.io", "Ingress"),
        ("networking.k8s.io", "IngressClass"),
        ("networking.k8s.io", "NetworkPolicy"),
        ("policy", "PodDisruptionBudget"),
        ("resource.k8s.io", "DeviceClass"),
        ("resource.k8s.io", "DeviceTaintRule"),
        ("resource.k8s.io", "ResourceSlice"),
        ("scheduling.k8s.io", "PriorityClass"),
    }
)
_BUILTIN_GROUPS = frozenset(
    {
        "",
        "admissionregistration.k8s.io",
        "apiextensions.k8s.io",
        "apiregistration.k8s.io",
        "apps",
        "authentication.k8s.io",
        "authorization.k8s.io",
        "autoscaling",
        "batch",
        "certificates.k8s.io",
        "coordination.k8s.io",
        "discovery.k8s.io",
        "events.k8s.io",
        "flowcontrol.apiserver.k8s.io",
        "networking.k8s.io",
        "node.k8s.io",
        "policy",
        "rbac.authorization.k8s.io",
        "resource.k8s.io",
        "scheduling.k8s.io",
        "storage.k8s.io",
        "storagemigration.k8s.io",
    }
)

# What the status of a new object says; `{}` for the others that have one.
_FIRST_STATUS: dict[tuple[str, str], Object] = {
    ("", "Namespace"): {"phase": "Active"},
    ("", "PersistentVolume"): {"phase": "Pending"},
    ("", "PersistentVolumeClaim"): {"phase": "Pending"},
    ("", "Pod"): {"phase": "Pending"},
    ("", "ReplicationController"): {"replicas": 0},
    ("", "Service"): {"loadBalancer": {}},
    ("apps", "ReplicaSet"): {"replicas": 0},
    ("apps", "StatefulSet"): {"replicas": 0, "availableReplicas": 0},
    ("apps", "DaemonSet"): {
        "currentNumberScheduled": 0,
        "desiredNumberScheduled": 0,
        "numberMisscheduled": 0,
        "numberReady": 0,
    },
    ("networking.k8s.io", "Ingress"): {"loadBalancer": {}},
}
# Kubelets register with their status; everybody else starts from nothing.
_KEEPS_STATUS = frozenset({("", "Node")})
_IDENTITY = ("uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds")


def is_builtin(resource: Resource) -> bool:
    """Whether a resource is Kubernetes' own rather than one a CRD brought."""
    return resource.group in _BUILTIN_GROUPS


def has_generation(resource: Resource) -> bool:
    """Whether objects of the kind count the changes of what is wanted in their metadata."""
    return not is_builtin(resource) or (resource.group, resource.kind) in _WITH_GENERATION


def prepare_create(resource: Resource, obj: Object) -> None:
    """Make a new object ready to be validated and stored, in place.

    ``metadata.name`` and ``metadata.uid`` must be set; defaults must have been applied.
    """
    kind = (resource.group, resource.kind)
    metadata = meta(obj)
    metadata.pop("selfLink", None)
    metadata.pop("generation", None)
    if has_generation(resource):
        metadata["generation"] = 1
    if "status" in resource.subresources and kind not in _KEEPS_STATUS:
        obj.pop("status", None)
        if is_builtin(resource):
            obj["status"] = dict(_FIRST_STATUS.get(kind, {}))
    if kind == ("", "Pod"):
        obj["status"]["qosClass"] = qos_class(obj.get("spec") or {})
    elif kind == ("", "Namespace"):
        finalizers = (obj.get("spec") or {}).get("finalizers") or []
        if "kubernetes" not in finalizers:
            obj["spec"] = {**(obj.get("spec") or {}), "finalizers": [*finalizers, "kubernetes"]}
    elif kind == ("batch", "Job"):
        _own_job_pods(obj)
    elif kind == ("apiextensions.k8s.io", "CustomResourceDefinition"):
        obj["status"] = {"storedVersions": _storage_versions(obj)}


def _own_job_pods(job: Object) -> None:
    """Give a Job the selector and labels that tell its pods from all others."""
    spec = job["spec"]
    if spec.get("manualSelector"):
        return
    uid, name = str(meta(job).get("uid") or ""), name_of(job)
    template = spec.setdefault("template", {})
    labels = meta(template).setdefault("labels", {})
    for key, value in (("controller-uid", uid), ("job-name", name)):
        labels[key] = labels[f"batch.kubernetes.io/{key}"] = value
    if not spec.get("selector"):
        spec["selector"] = {"matchLabels": {"batch.kubernetes.io/controller-uid": uid}}


def _storage_versions(crd: Object) -> list[str]:
    versions = (crd.get("spec") or {}).get("versions") or []
    return [str(version["name"]) for version in versions if version.get("storage")]


def prepare_update(resource: Resource, new: Object, old: Object, subresource: str = "") -> None:
    """Take over from ``old`` what an update of this kind may not touch, in place.

    An update of the object itself keeps the status; one of ``status`` keeps all the rest. The
    generation grows when what is wanted changed.
    """
    _keep_identity(new, old)
    if subresource == "":
        _prepare_main(resource, new, old)
    elif subresource == "status":
        _prepare_status(resource, new, old)
    elif subresource == "approval":
        _prepare_approval(new, old)
    elif subresource == "finalize":
        _restore(new, old, except_for=("metadata", "spec"))
        new["spec"] = {**(old.get("spec") or {}), **(new.get("spec") or {})}
    else:
        _prepare_part(new, old, subresource)
    if has_generation(resource):
        generation = int(meta(old).get("generation") or 0)
        meta(new)["generation"] = generation + (_wanted(new) != _wanted(old))
    else:
        meta(new).pop("generation", None)
        if "generation" in meta(old):
            meta(new)["generation"] = meta(old)["generation"]


def _keep_identity(new: Object, old: Object) -> None:
    ours, theirs = meta(new), meta(old)
    ours.pop("selfLink", None)
    for name in _IDENTITY:
        if name in theirs:
            ours[name] = theirs[name]
        else:
            ours.pop(name, None)
    if "generateName" in theirs and "generateName" not in ours:
        ours["generateName"] = theirs["generateName"]


def _prepare_main(resource: Resource, new: Object, old: Object) -> None:
    if "status" in resource.subresources:
        _copy_field(new, old, "status")
    if resource.group == "" and resource.kind == "Service":
        _keep_addresses(new.get("spec") or {}, old.get("spec") or {})
    elif resource.group == "" and resource.kind == "Namespace":
        spec = {**(new.get("spec") or {})}
        finalizers = (old.get("spec") or {}).get("finalizers")
        spec.pop("finalizers", None)
        if finalizers is not None:
            spec["finalizers"] = finalizers
        new["spec"] = spec
    elif resource.kind == "CertificateSigningRequest":
        _copy_field(new, old, "spec")
    elif resource.group == "" and resource.kind == "PersistentVolumeClaim":
        _fill(new.get("spec") or {}, old.get("spec") or {}, ("volumeName", "storageClassName"))


def _prepare_status(resource: Resource, new: Object, old: Object) -> None:
    _restore(new, old, except_for=("metadata", "status"))
    metadata, before = meta(new), meta(old)
    if not is_builtin(resource):
        new["metadata"] = {**before}
        for name in ("managedFields", "resourceVersion"):
            if name in metadata:
                new["metadata"][name] = metadata[name]
        return
    _copy_field(metadata, before, "ownerReferences")
    if resource.kind not in ("Pod", "Node"):
        _copy_field(metadata, before, "labels")
    if resource.kind == "CertificateSigningRequest":
        status = new["status"] = {**(new.get("status") or {})}
        status["conditions"] = [
            *_decisions(old, decided=True),
            *_decisions(new, decided=False),
        ]


def _prepare_approval(new: Object, old: Object) -> None:
    """A CertificateSigningRequest's approval: its conditions, and nothing else."""
    conditions = (new.get("status") or {}).get("conditions") or []
    _restore(new, old, except_for=("metadata",))
    new["status"] = {**(old.get("status") or {}), "conditions": conditions}


def _decisions(obj: Object, *, decided: bool) -> list[Object]:
    """The conditions that approve or deny a CertificateSigningRequest, or all the others."""
    conditions = (obj.get("status") or {}).get("conditions") or []
    return [c for c in conditions if (c.get("type") in ("Approved", "Denied")) == decided]


def _prepare_part(new: Object, old: Object, subresource: str) -> None:
    """An update of a subresource that stands for a part of a pod's spec."""
    wanted = new.get("spec") or {}
    _restore(new, old, except_for=("metadata",))
    spec = dict(old.get("spec") or {})
    if subresource == "ephemeralcontainers":
        _copy_field(spec, wanted, "ephemeralContainers")
    elif subresource == "resize":
        resources = {
            each.get("name"): each.get("resources") for each in wanted.get("containers") or ()
        }
        spec["containers"] = [
            {**each, "resources": resources.get(each.get("name")) or each.get("resources") or {}}
            for each in spec.get("containers") or ()
        ]
    new["spec"] = spec


def _keep_addresses(new: Object, old: Object) -> None:
    """A Service keeps the addresses and ports it was given, so long as its type wants them."""
    if "ExternalName" in (new.get("type"), old.get("type")):
        return
    _fill(new, old, ("clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"))
    node_types = ("NodePort", "LoadBalancer")
    if new.get("type") in node_types and old.get("type") in node_types:
        given = {
            (port.get("protocol"), port.get("port")): port.get("nodePort")
            for port in old.get("ports") or ()
        }
        for port in new.get("ports") or ():
            known = given.get((port.get("protocol"), port.get("port")))
            if not port.get("nodePort") and known:
                port["nodePort"] = known
        if new.get("externalTrafficPolicy") == old.get("externalTrafficPolicy"):
            _fill(new, old, ("healthCheckNodePort",))


def _fill(new: Object, old: Object, names: tuple[str, ...]) -> None:
    for name in names:
        if not new.get(name) and old.get(name):
            new[name] = old[name]


def _copy_field(new: Object, old: Object, name: str) -> None:
    if name in old:
        new[name] = old[name]
    else:
        new.pop(name, None)


def _restore(new: Object, old: Object, *, except_for: tuple[str, ...]) -> None:
    for name in {*new, *old} - {*except_for}:
        _copy_field(new, old, name)


def _wanted(obj: Object) -> dict[str, Any]:
    return {
        name: value
        for name, value in obj.items()
        if name not in ("metadata", "status", "apiVersion", "kind")
    }
