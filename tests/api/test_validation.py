import copy
from typing import Any

import pytest
from tests.api.manifests import SPECS, complete

from underway.api import kinds, resources
from underway.api.objects import Object
from underway.api.resources import Resource
from underway.base.errors import Cause


def at(obj: Any, path: str) -> tuple[Any, str | int]:
    """The parent and the last step of a path such as ``spec.ports.0.name``."""
    steps = [int(step) if step.isdigit() else step for step in path.split(".")]
    for step in steps[:-1]:
        obj = obj[step] if isinstance(step, int) else obj.setdefault(step, {})
    return obj, steps[-1]


def problems(kind: str, path: str, value: Any = None) -> list[Cause]:
    """What is wrong once a field has another value, or none."""
    resource, obj = complete(kind)
    parent, step = at(obj, path)
    if value is None:
        del parent[step]
    else:
        parent[step] = value
    return kinds.validate_create(resource, obj)


def lines(causes: list[Cause]) -> list[str]:
    return [f"{cause.field}: {cause.message}" for cause in causes]


@pytest.mark.parametrize("kind", SPECS)
def test_usual_manifests_are_valid_and_may_be_applied_again(kind):
    resource, obj = complete(kind)
    assert kinds.validate_create(resource, obj) == []
    assert kinds.validate_update(resource, copy.deepcopy(obj), obj) == []


POD = "spec.containers.0"
WRONG = [
    (
        "pod",
        "metadata.name",
        None,
        "metadata.name: Required value: name or generateName is required",
    ),
    (
        "pod",
        "metadata.name",
        "Web_1",
        'metadata.name: Invalid value: "Web_1": a lowercase RFC 1123 subdomain must consist of',
    ),
    ("pod", "metadata.name", "a" * 254, "must be no more than 253 characters"),
    ("service", "metadata.name", "1a", "a DNS-1035 label must consist of"),
    ("namespace", "metadata.name", "a.b", 'Invalid value: "a.b": must not contain dots'),
    ("pod", "metadata.labels", {"a/b/c": "d"}, "a qualified name must consist of"),
    ("pod", "metadata.labels", {"a": "-"}, "a valid label must be an empty string or consist of"),
    ("pod", "metadata.annotations", {"a": "b" * 300_000}, "Too long: may not be more than 262144"),
    ("pod", "spec.containers", [], "spec.containers: Required value"),
    ("pod", f"{POD}.name", None, "spec.containers[0].name: Required value"),
    ("pod", f"{POD}.image", "", "spec.containers[0].image: Required value"),
    ("pod", f"{POD}.image", " x", "must not have leading or trailing whitespace"),
    (
        "pod",
        f"{POD}.imagePullPolicy",
        "Sometimes",
        'Unsupported value: "Sometimes": supported values: "Always", "IfNotPresent", "Never"',
    ),
    (
        "pod",
        f"{POD}.ports",
        [{"containerPort": 99_999, "protocol": "TCP"}],
        "containerPort: Invalid value: 99999: must be between 1 and 65535, inclusive",
    ),
    ("pod", f"{POD}.ports", [{"protocol": "TCP"}], "ports[0].containerPort: Required value"),
    ("pod", f"{POD}.env", [{"name": "a=b"}], "a valid environment variable name must consist"),
    ("pod", f"{POD}.env", [{"value": "b"}], "spec.containers[0].env[0].name: Required value"),
    (
        "pod",
        f"{POD}.env",
        [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "spec.x"}}}],
        '"spec.x": error converting fieldPath: field label not supported: spec.x',
    ),
    (
        "pod",
        f"{POD}.volumeMounts",
        [{"name": "gone", "mountPath": "/x"}],
        'spec.containers[0].volumeMounts[0].name: Not found: "gone"',
    ),
    (
        "pod",
        f"{POD}.resources",
        {"requests": {"cpu": "2"}, "limits": {"cpu": "1"}},
        'resources.requests: Invalid value: "2": must be less than or equal to cpu limit of 1',
    ),
    (
        "pod",
        f"{POD}.resources",
        {"limits": {"gold": "1"}},
        "must be a standard resource for containers",
    ),
    (
        "pod",
        f"{POD}.livenessProbe",
        {},
        "livenessProbe: Required value: must specify a handler type",
    ),
    (
        "pod",
        f"{POD}.livenessProbe",
        {"exec": {"command": ["x"]}, "successThreshold": 2},
        "livenessProbe.successThreshold: Invalid value: 2: must be 1",
    ),
    ("pod", "spec.restartPolicy", "Never!", 'spec.restartPolicy: Unsupported value: "Never!"'),
    (
        "pod",
        "spec.volumes",
        [{"name": "a", "emptyDir": {}, "hostPath": {"path": "/"}}],
        "spec.volumes[0].hostPath: Forbidden: may not specify more than 1 volume type",
    ),
    ("pod", "spec.volumes", [{"name": "A", "emptyDir": {}}], "a lowercase RFC 1123 label must"),
    (
        "pod",
        "spec.tolerations",
        [{"key": "a", "operator": "Exists", "value": "b"}],
        "value must be empty when `operator` is 'Exists'",
    ),
    (
        "deployment",
        "spec.template.metadata.labels",
        {"app": "x"},
        'Invalid value: map[string]string{"app":"x"}: `selector` does not match template `labels`',
    ),
    ("deployment", "spec.selector", None, "spec.selector: Required value"),
    ("deployment", "spec.replicas", -1, "must be greater than or equal to 0"),
    (
        "deployment",
        "spec.template.spec.restartPolicy",
        "Never",
        'spec.template.spec.restartPolicy: Unsupported value: "Never": supported values: "Always"',
    ),
    (
        "deployment",
        "spec.strategy.rollingUpdate",
        {"maxSurge": 0, "maxUnavailable": 0},
        "maxUnavailable: Invalid value: 0: may not be 0 when `maxSurge` is 0",
    ),
    (
        "job",
        "spec.template.spec.restartPolicy",
        "Always",
        'spec.template.spec.restartPolicy: Required value: valid values: "OnFailure", "Never"',
    ),
    ("cronjob", "spec.schedule", "* * *", "expected exactly 5 fields, found 3"),
    ("cronjob", "metadata.name", "a" * 53, "must be no more than 52 characters"),
    ("service", "spec.ports", [], "spec.ports: Required value"),
    ("service", "spec.ports.0.port", 0, "must be between 1 and 65535, inclusive"),
    ("service", "spec.type", "Magic", 'spec.type: Unsupported value: "Magic"'),
    ("configmap", "data", {"a b": "c"}, "a valid config key must consist of"),
    ("configmap", "data", {"a": "x" * 1_100_000}, "Too long: may not be more than 1048576 bytes"),
    ("secret", "type", "kubernetes.io/tls", "data[tls.crt]: Required value"),
    (
        "role",
        "rules.0.verbs",
        [],
        "rules[0].verbs: Required value: verbs must contain at least one",
    ),
    ("binding", "roleRef.kind", "Pod", 'roleRef.kind: Unsupported value: "Pod"'),
    ("claim", "spec.accessModes", [], "spec.accessModes: Required value: at least 1 access mode"),
    ("slice", "endpoints.0.addresses", ["x"], "must be a valid IP address"),
    ("lease", "spec.leaseDurationSeconds", 0, "must be greater than 0"),
    (
        "ingress",
        "spec.rules.0.http.paths.0.pathType",
        None,
        "pathType: Required value: pathType must be specified",
    ),
]


@pytest.mark.parametrize(("kind", "path", "value", "text"), WRONG)
def test_what_breaks_a_rule_is_named_in_kubernetes_words(kind, path, value, text):
    assert any(text in line for line in lines(problems(kind, path, value)))


def test_names_of_containers_ports_and_volumes_are_unique():
    resource, pod = complete("pod")
    container = pod["spec"]["containers"][0]
    port = {"name": "a", "containerPort": 1, "hostPort": 1, "protocol": "TCP"}
    container["ports"] = [port, dict(port)]
    pod["spec"]["containers"].append(copy.deepcopy(container))
    pod["spec"]["volumes"] = [{"name": "v", "emptyDir": {}}, {"name": "v", "emptyDir": {}}]
    found = lines(kinds.validate_create(resource, pod))
    assert 'spec.containers[1].name: Duplicate value: "web"' in found
    assert 'spec.containers[0].ports[1].name: Duplicate value: "a"' in found
    assert 'spec.volumes[1].name: Duplicate value: "v"' in found
    assert any("hostPort: Duplicate value" in line for line in found)


def changed(kind: str, path: str, value: Any) -> list[str]:
    resource, old = complete(kind)
    new = copy.deepcopy(old)
    parent, step = at(new, path)
    parent[step] = value
    return lines(kinds.validate_update(resource, new, old))


def test_of_a_pod_only_a_few_fields_change():
    assert changed("pod", f"{POD}.image", "other") == []
    assert changed("pod", "spec.activeDeadlineSeconds", 5) == []
    assert changed("pod", "spec.tolerations", [{"operator": "Exists"}]) == []
    assert changed("pod", "metadata.labels", {"a": "b"}) == []
    (line,) = changed("pod", f"{POD}.command", ["x"])
    assert line.startswith("spec: Forbidden: pod updates may not change fields other than `spec.c")
    (line,) = changed("pod", "spec.containers", [])
    assert line == "spec.containers: Forbidden: pod updates may not add or remove containers"


@pytest.mark.parametrize(
    ("kind", "path", "value", "text"),
    [
        ("deployment", "spec.selector", {"matchLabels": {"a": "b"}}, "field is immutable"),
        ("statefulset", "spec.serviceName", "x", "updates to statefulset spec for fields other"),
        ("job", "spec.completions", 5, "spec.completions: Invalid value: 5: field is immutable"),
        ("binding", "roleRef.name", "x", "cannot change roleRef"),
        ("secret", "type", "x", 'type: Invalid value: "x": field is immutable'),
        ("slice", "addressType", "IPv6", "field is immutable"),
        ("priorityclass", "value", 7, "may not be changed in an update."),
        ("pod", "metadata.name", "x", 'metadata.name: Invalid value: "x": field is immutable'),
    ],
)
def test_what_may_not_change_says_so(kind, path, value, text):
    assert any(text in line for line in changed(kind, path, value))


def test_immutable_configuration_stays():
    resource, old = complete("configmap")
    old["immutable"] = True
    new = {**copy.deepcopy(old), "data": {"a": "c"}, "immutable": False}
    found = lines(kinds.validate_update(resource, new, old))
    assert found == [
        "immutable: Forbidden: field is immutable when `immutable` is set",
        "data: Forbidden: field is immutable when `immutable` is set",
    ]


def test_the_address_of_a_service_stays():
    resource, old = complete("service")
    old["spec"]["clusterIP"] = "10.0.0.1"
    new = copy.deepcopy(old)
    new["spec"]["clusterIP"] = "10.0.0.2"
    (line,) = lines(kinds.validate_update(resource, new, old))
    assert line == 'spec.clusterIPs[0]: Invalid value: "10.0.0.2": may not change once set'


def test_no_finalizer_is_added_to_what_is_being_deleted():
    resource, old = complete("configmap")
    old["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    new = copy.deepcopy(old)
    new["metadata"]["finalizers"] = ["a.b/c"]
    (line,) = lines(kinds.validate_update(resource, new, old))
    assert "no new finalizers can be added if the object is being deleted" in line


def test_the_error_reads_as_kubernetes_writes_it():
    causes = [Cause("spec.a", "Required value", "FieldValueRequired")]
    error = kinds.invalid(resources.DEPLOYMENTS, "web", causes)
    assert error.message == 'Deployment.apps "web" is invalid: spec.a: Required value'
    assert error.to_status()["details"] == {
        "name": "web",
        "group": "apps",
        "kind": "Deployment",
        "causes": [
            {"reason": "FieldValueRequired", "message": "Required value", "field": "spec.a"}
        ],
    }
    two = [*causes, *causes, Cause("spec.b", 'Invalid value: "x": no')]
    error = kinds.invalid(resources.PODS, "p", two)
    assert error.message == (
        'Pod "p" is invalid: [spec.a: Required value, spec.b: Invalid value: "x": no]'
    )
    assert len(error.causes) == 2


def test_secrets_are_not_quoted():
    found = lines(problems("secret", "data", {"key": "not base64!"}))
    assert found
    assert "not base64!" not in "".join(found)


def test_custom_resources_are_checked_for_their_metadata():
    custom = Resource("x.io", "v1", "things", "Thing", namespaced=False)
    obj: Object = {"metadata": {"name": "a", "namespace": "b"}, "spec": {"any": 1}}
    (line,) = lines(kinds.validate_create(custom, obj))
    assert line == "metadata.namespace: Forbidden: not allowed on this type"


def test_gates_of_a_pod_may_be_lifted_but_not_added():
    resource, gated = complete("pod")
    gated["spec"]["schedulingGates"] = [{"name": "example.com/a"}, {"name": "example.com/b"}]
    lifted = copy.deepcopy(gated)
    del lifted["spec"]["schedulingGates"][0]
    lifted["spec"]["nodeSelector"] = {**gated["spec"].get("nodeSelector", {}), "disk": "fast"}
    assert kinds.validate_update(resource, lifted, gated) == []
    released = copy.deepcopy(lifted)
    del released["spec"]["schedulingGates"]
    assert kinds.validate_update(resource, released, lifted) == []
    (line,) = lines(kinds.validate_update(resource, gated, lifted))
    assert line.startswith("spec.schedulingGates: Forbidden: only deletion is allowed")
    moved = copy.deepcopy(released)
    moved["spec"]["nodeSelector"] = {"disk": "slow"}
    assert kinds.validate_update(resource, moved, released) != []
