"""Every verb on a kind, its place in discovery, and its status, one row for each kind."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from tests.conformance.world import World, condition, pod, template, unique, workload
from underway.base.errors import NotFound

RULE = {"apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"], "operations": ["*"]}
CPU = {"cpu": "1", "memory": "500Mi"}


def obj(api_version: str, kind: str, **fields: Any) -> dict[str, Any]:
    return {"apiVersion": api_version, "kind": kind, "metadata": {"name": "x"}, **fields}


def spec(api_version: str, kind: str, **fields: Any) -> dict[str, Any]:
    return obj(api_version, kind, spec=fields)


JOB = {"template": template(restartPolicy="Never"), "suspend": True}
NEVER = {
    "matchConstraints": {"resourceRules": [RULE]},
    "validations": [{"expression": "true"}],
}
KINDS = {
    "flowschemas": spec(
        "flowcontrol.apiserver.k8s.io/v1",
        "FlowSchema",
        matchingPrecedence=9999,
        priorityLevelConfiguration={"name": "global-default"},
        distinguisherMethod={"type": "ByUser"},
    ),
    "prioritylevelconfigurations": spec(
        "flowcontrol.apiserver.k8s.io/v1",
        "PriorityLevelConfiguration",
        type="Limited",
        limited={"nominalConcurrencyShares": 2, "limitResponse": {"type": "Reject"}},
    ),
    "validatingadmissionpolicies": spec(
        "admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicy", **NEVER
    ),
    "validatingadmissionpolicybindings": spec(
        "admissionregistration.k8s.io/v1",
        "ValidatingAdmissionPolicyBinding",
        policyName="absent",
        validationActions=["Deny"],
    ),
    "cronjobs": spec(
        "batch/v1",
        "CronJob",
        schedule="* */1 * * ?",
        suspend=True,
        jobTemplate={"spec": {"template": template(restartPolicy="Never")}},
    ),
    "jobs": spec("batch/v1", "Job", **JOB),
    "daemonsets": workload("DaemonSet", "x"),
    "deployments": workload("Deployment", "x"),
    "replicasets": workload("ReplicaSet", "x"),
    "statefulsets": workload("StatefulSet", "x"),
    "replicationcontrollers": workload("ReplicationController", "x"),
    "poddisruptionbudgets": spec(
        "policy/v1", "PodDisruptionBudget", minAvailable=1, selector={"matchLabels": {"app": "x"}}
    ),
    "certificatesigningrequests": None,  # made where it is used: it holds a real request
    "endpointslices": obj(
        "discovery.k8s.io/v1",
        "EndpointSlice",
        addressType="IPv4",
        endpoints=[{"addresses": ["10.1.2.3"]}],
        ports=[{"name": "web", "port": 80, "protocol": "TCP"}],
    ),
    "endpoints": obj(
        "v1", "Endpoints", subsets=[{"addresses": [{"ip": "10.0.0.24"}], "ports": [{"port": 80}]}]
    ),
    "ingresses": spec(
        "networking.k8s.io/v1",
        "Ingress",
        defaultBackend={"service": {"name": "web", "port": {"number": 80}}},
    ),
    "ingressclasses": spec(
        "networking.k8s.io/v1", "IngressClass", controller="example.com/controller"
    ),
    "services": spec("v1", "Service", ports=[{"port": 80}], selector={"app": "x"}),
    "serviceaccounts": obj("v1", "ServiceAccount"),
    "runtimeclasses": obj("node.k8s.io/v1", "RuntimeClass", handler="absent"),
    "leases": spec("coordination.k8s.io/v1", "Lease", holderIdentity="me", leaseDurationSeconds=30),
    "configmaps": obj("v1", "ConfigMap", data={"a": "1"}),
    "secrets": obj("v1", "Secret", data={"a": "MQ=="}, type="Opaque"),
    "podtemplates": obj("v1", "PodTemplate", template=template()),
    "pods": pod("x", terminationGracePeriodSeconds=0),
    "limitranges": spec(
        "v1", "LimitRange", limits=[{"type": "Container", "default": {"cpu": "200m"}}]
    ),
    "resourcequotas": spec("v1", "ResourceQuota", hard=CPU),
    "priorityclasses": obj("scheduling.k8s.io/v1", "PriorityClass", value=1000),
    "csidrivers": spec("storage.k8s.io/v1", "CSIDriver", attachRequired=False),
    "csinodes": spec("storage.k8s.io/v1", "CSINode", drivers=[]),
    "csistoragecapacities": obj("storage.k8s.io/v1", "CSIStorageCapacity", storageClassName="a"),
    "storageclasses": obj(
        "storage.k8s.io/v1", "StorageClass", provisioner="example.com/none", parameters={"a": "1"}
    ),
    "volumeattachments": spec(
        "storage.k8s.io/v1",
        "VolumeAttachment",
        attacher="example.com/none",
        nodeName="node-0",
        source={"persistentVolumeName": "absent"},
    ),
    "persistentvolumes": spec(
        "v1",
        "PersistentVolume",
        capacity={"storage": "1Mi"},
        accessModes=["ReadWriteOnce"],
        storageClassName="by-hand",
        hostPath={"path": "/tmp/nothing"},
    ),
    "persistentvolumeclaims": spec(
        "v1",
        "PersistentVolumeClaim",
        accessModes=["ReadWriteOnce"],
        storageClassName="none-of-them",
        resources={"requests": {"storage": "1Gi"}},
    ),
    "controllerrevisions": obj("apps/v1", "ControllerRevision", revision=1, data={"a": 1}),
    "nodes": obj("v1", "Node", spec={"unschedulable": True}),
    "events": obj(
        "v1",
        "Event",
        involvedObject={"kind": "Pod", "name": "x", "namespace": "{ns}"},
        reason="Test",
        message="first",
        type="Normal",
    ),
    "events.events.k8s.io": obj(
        "events.k8s.io/v1",
        "Event",
        regarding={"kind": "Pod", "name": "x", "namespace": "{ns}"},
        reason="Test",
        note="first",
        type="Normal",
        action="Do",
        eventTime="2026-01-01T00:00:00.000000Z",
        reportingController="test",
        reportingInstance="one",
    ),
}


def made(plural: str, ns: str, label: str) -> dict[str, Any]:
    """A new object of the kind, under a name nobody has."""
    new = copy.deepcopy(signing_request() if plural.startswith("certificates") else KINDS[plural])
    new["metadata"].update(name=unique("x"), labels={"test": label})
    for reference in ("involvedObject", "regarding"):
        if reference in new:
            new[reference]["namespace"] = ns
    return new


def signing_request() -> dict[str, Any]:
    import base64

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "someone")])
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(subject)
        .sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
    )
    pem = request.public_bytes(serialization.Encoding.PEM)
    return spec(
        "certificates.k8s.io/v1",
        "CertificateSigningRequest",
        request=base64.b64encode(pem).decode(),
        signerName="example.com/nobody",
        usages=["digital signature"],
    )


@pytest.mark.parametrize("plural", KINDS)
def test_a_kind_supports_its_api_operations(world: World, plural: str) -> None:
    first, second, third = (made(plural, world.ns, world.ns) for _ in range(3))
    one, labels = first["metadata"]["name"], f"test={world.ns}"
    resource = world.resource(first)
    discovered(world, resource)
    with world.watch(resource, labels) as events:
        for each in (first, second, third):
            assert world.create(each)["metadata"]["uid"]
        assert world.get(resource, one)["metadata"]["name"] == one
        found = world.list(resource, labels)
        assert {each["metadata"]["name"] for each in found} == {
            each["metadata"]["name"] for each in (first, second, third)
        }
        assert len(world.list(resource, labels, everywhere=True)) == 3
        patched = world.patch(resource, one, {"metadata": {"labels": {"patched": "yes"}}})
        assert patched["metadata"]["labels"] == {"test": world.ns, "patched": "yes"}
        world.change(patched, metadata__annotations={"updated": "yes"})
        assert world.get(resource, one)["metadata"]["annotations"]["updated"] == "yes"
        assert [each["metadata"]["name"] for each in world.list(resource, "patched=yes")] == [one]
        world.delete(resource, one)
        world.gone(resource, one)
        with pytest.raises(NotFound):
            world.get(resource, one)
        assert len(world.list(resource, labels)) == 2
        world.delete_all(resource, labels)
        world.until_all(resource, lambda left: not left, labels)
        events.until("ADDED", one)
        events.until("MODIFIED", one)
        events.until("DELETED", one)


def discovered(world: World, resource: Any) -> None:
    root = "/api" if not resource.group else "/apis"
    if resource.group:
        groups = {each["name"]: each for each in world.raw("GET", root)["groups"]}
        versions = {each["groupVersion"] for each in groups[resource.group]["versions"]}
        assert resource.api_version in versions
        group = world.raw("GET", f"{root}/{resource.group}")
        assert resource.api_version in {each["groupVersion"] for each in group["versions"]}
    served = world.raw("GET", resource.path().rsplit("/", 1)[0])["resources"]
    verbs = {each["name"]: each["verbs"] for each in served}
    assert set(verbs[resource.plural]) == {
        "create", "delete", "deletecollection", "get", "list", "patch", "update", "watch",
    }  # fmt: skip
    if resource.plural in STATUSES:
        assert set(verbs[f"{resource.plural}/status"]) == {"get", "patch", "update"}


MARK = {"type": "Marked", "status": "True", "reason": "Test", "message": "by hand"}
TIMED = {**MARK, "lastTransitionTime": "2026-01-01T00:00:00Z"}
LISTENER = {"ingress": [{"ip": "203.0.113.1"}]}
STATUSES = {
    "flowschemas": {"conditions": [TIMED]},
    "prioritylevelconfigurations": {"conditions": [TIMED]},
    "validatingadmissionpolicies": {"conditions": [TIMED]},
    "cronjobs": {"lastScheduleTime": "2026-01-01T00:00:00Z"},
    "jobs": {"conditions": [MARK]},
    "daemonsets": {"conditions": [MARK]},
    "deployments": {"conditions": [MARK]},
    "replicasets": {"conditions": [MARK]},
    "statefulsets": {"conditions": [MARK]},
    "replicationcontrollers": {"conditions": [MARK]},
    "poddisruptionbudgets": {"conditions": [TIMED]},
    "certificatesigningrequests": {"conditions": [MARK]},
    "ingresses": {"loadBalancer": LISTENER},
    "services": {"loadBalancer": LISTENER, "conditions": [TIMED]},
    "pods": {"conditions": [MARK], "message": "by hand"},
    "volumeattachments": {"attached": True},
    "persistentvolumes": {"phase": "Available", "message": "by hand", "reason": "Test"},
    "persistentvolumeclaims": {"phase": "Pending", "conditions": [MARK]},
    "nodes": {"conditions": [MARK]},
}


@pytest.mark.parametrize("plural", STATUSES)
def test_a_status_is_read_patched_and_updated(world: World, plural: str) -> None:
    new = made(plural, world.ns, world.ns)
    name, resource = new["metadata"]["name"], world.resource(new)
    before = world.create(new)
    assert world.get(resource, name, "status")["metadata"]["uid"] == before["metadata"]["uid"]
    body = {"metadata": {"annotations": {"patched": "yes"}}, "status": STATUSES[plural]}
    with world.watch(resource) as events:
        patched = world.patch(resource, name, body, "status")
        assert shows(patched, plural)
        assert patched["metadata"]["annotations"]["patched"] == "yes"
        assert patched["spec"].keys() >= new["spec"].keys() - {"nodeName"}
        assert events.until("MODIFIED", name, lambda seen: shows(seen, plural))
        for path, value in STATUSES[plural].items():
            if path != "conditions":
                updated = world.change(before, "status", **{f"status__{path}": value})
            else:
                again = {**value[0], "reason": "Updated"}
                updated = world.change(before, "status", status__conditions=[again])
                assert condition(updated, "Marked")["reason"] == "Updated"
    ignored = world.patch(resource, name, {"metadata": {"labels": {"a": "b"}}, "status": None})
    assert ignored["status"], "the object's own path changed its status"
    assert updated["metadata"]["uid"] == before["metadata"]["uid"]
    world.delete(resource, name)


def shows(seen: dict[str, Any], plural: str) -> bool:
    return all(
        condition(seen, "Marked").get("message") == "by hand"
        if field == "conditions"
        else seen["status"].get(field) == value
        for field, value in STATUSES[plural].items()
    )
