import copy

import pytest
from tests.api.manifests import CONTAINER, SPECS, complete, manifest

from underway.api import resources
from underway.api.defaults import apply_defaults
from underway.api.defaults.pods import pull_policy
from underway.api.resources import Resource
from underway.api.schema import builtin, unknown_fields, validate
from underway.base.errors import BadRequest


@pytest.mark.parametrize("kind", SPECS)
def test_defaults_are_fields_of_the_kind_and_change_nothing_twice(kind):
    resource, obj = complete(kind)
    schema = builtin(resource.api_version, resource.kind)
    assert schema is not None
    assert unknown_fields(schema, obj) == []
    assert [cause for cause in validate(schema, obj) if "must be of type" in cause.message] == []
    again = copy.deepcopy(obj)
    apply_defaults(resource, again)
    assert again == obj


def test_a_pod():
    _, pod = complete("pod")
    assert pod["spec"] == {
        "containers": [
            {
                **CONTAINER,
                "imagePullPolicy": "Always",
                "resources": {},
                "terminationMessagePath": "/dev/termination-log",
                "terminationMessagePolicy": "File",
            }
        ],
        "dnsPolicy": "ClusterFirst",
        "enableServiceLinks": True,
        "restartPolicy": "Always",
        "schedulerName": "default-scheduler",
        "securityContext": {},
        "terminationGracePeriodSeconds": 30,
    }


def test_a_deployment():
    spec = complete("deployment")[1]["spec"]
    assert spec["replicas"] == 1
    assert spec["revisionHistoryLimit"] == 10
    assert spec["progressDeadlineSeconds"] == 600
    rolling = {"maxSurge": "25%", "maxUnavailable": "25%"}
    assert spec["strategy"] == {"type": "RollingUpdate", "rollingUpdate": rolling}
    assert "enableServiceLinks" not in spec["template"]["spec"]


def test_zero_and_false_are_values():
    resource, deployment = manifest("deployment")
    deployment["spec"]["replicas"] = 0
    deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = 0
    apply_defaults(resource, deployment)
    assert deployment["spec"]["replicas"] == 0
    assert deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] == 0


@pytest.mark.parametrize(
    ("image", "policy"),
    [
        ("nginx", "Always"),
        ("nginx:latest", "Always"),
        ("nginx:1", "IfNotPresent"),
        ("host:5000/nginx", "Always"),
        ("host:5000/a/nginx:2", "IfNotPresent"),
        ("nginx@sha256:00", "IfNotPresent"),
        ("nginx:latest@sha256:00", "Always"),
    ],
)
def test_the_pull_policy_follows_the_tag(image, policy):
    assert pull_policy(image) == policy


def test_requests_follow_limits_in_pods_only():
    limits = {"cpu": "1000m", "memory": "1024Mi"}
    resource, pod = manifest("pod")
    pod["spec"]["containers"][0]["resources"] = {"limits": limits, "requests": {"cpu": "0.5"}}
    apply_defaults(resource, pod)
    found = pod["spec"]["containers"][0]["resources"]
    assert found == {
        "limits": {"cpu": "1", "memory": "1Gi"},
        "requests": {"cpu": "500m", "memory": "1Gi"},
    }
    resource, deployment = manifest("deployment")
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    container["resources"] = {"limits": dict(limits)}
    apply_defaults(resource, deployment)
    assert "requests" not in container["resources"]


def test_probes_ports_environment_and_volumes():
    resource, pod = manifest("pod")
    field, amount = {"fieldPath": "metadata.name"}, {"resource": "limits.cpu"}
    pod["spec"]["containers"][0] |= {
        "ports": [{"containerPort": 80}],
        "livenessProbe": {"httpGet": {"port": 80}, "timeoutSeconds": 0},
        "env": [
            {"name": "A", "valueFrom": {"fieldRef": field}},
            {"name": "B", "valueFrom": {"resourceFieldRef": amount}},
        ],
    }
    token = {"serviceAccountToken": {"path": "t"}}
    pod["spec"]["volumes"] = [
        {"name": "a"},
        {"name": "b", "configMap": {"name": "x"}},
        {"name": "c", "hostPath": {"path": "/x"}},
        {"name": "d", "projected": {"sources": [token]}},
    ]
    apply_defaults(resource, pod)
    container = pod["spec"]["containers"][0]
    assert container["ports"][0]["protocol"] == "TCP"
    assert container["livenessProbe"] == {
        "httpGet": {"port": 80, "path": "/", "scheme": "HTTP"},
        "timeoutSeconds": 1,
        "periodSeconds": 10,
        "successThreshold": 1,
        "failureThreshold": 3,
    }
    assert field["apiVersion"] == "v1"
    assert amount["divisor"] == "0"
    volumes = pod["spec"]["volumes"]
    assert volumes[0]["emptyDir"] == {}
    assert volumes[1]["configMap"]["defaultMode"] == 0o644
    assert volumes[2]["hostPath"]["type"] == ""
    assert token["serviceAccountToken"]["expirationSeconds"] == 3600


def test_a_service():
    spec = complete("service")[1]["spec"]
    assert spec == {
        "type": "ClusterIP",
        "sessionAffinity": "None",
        "internalTrafficPolicy": "Cluster",
        "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}],
    }


def test_string_data_of_a_secret_becomes_data():
    _, secret = complete("secret")
    assert secret["data"] == {"a": "Yg=="}
    assert secret["type"] == "Opaque"
    assert "stringData" not in secret


def test_a_job_runs_once_and_takes_its_templates_labels():
    _, job = complete("job")
    assert (job["spec"]["completions"], job["spec"]["parallelism"]) == (1, 1)
    assert job["metadata"]["labels"] == {"a": "b"}
    resource, queue = manifest("job")
    queue["spec"]["parallelism"] = 3
    apply_defaults(resource, queue)
    assert "completions" not in queue["spec"]


def test_a_namespace_is_labelled_with_its_name():
    _, namespace = complete("namespace")
    assert namespace["metadata"]["labels"] == {"kubernetes.io/metadata.name": "web"}


def test_subjects_and_roles_get_their_group():
    _, binding = complete("binding")
    assert binding["roleRef"]["apiGroup"] == "rbac.authorization.k8s.io"
    assert binding["subjects"][0]["apiGroup"] == "rbac.authorization.k8s.io"
    assert "apiGroup" not in binding["subjects"][1]


def test_nulls_are_fields_left_out():
    resource, pod = manifest("pod")
    pod["metadata"]["creationTimestamp"] = None
    pod["spec"]["restartPolicy"] = None
    pod["spec"]["containers"][0]["env"] = None
    apply_defaults(resource, pod)
    assert "creationTimestamp" not in pod["metadata"]
    assert pod["spec"]["restartPolicy"] == "Always"
    assert "env" not in pod["spec"]["containers"][0]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"containers": "x"}, "cannot unmarshal string into field containers of type array"),
        ({"containers": ["x"]}, "cannot unmarshal string into field containers"),
        (
            {"containers": [{"resources": {"limits": {"cpu": "lots"}}}]},
            "quantities must match the regular expression",
        ),
    ],
)
def test_fields_of_another_type_are_refused_by_name(spec, message):
    with pytest.raises(BadRequest) as caught:
        apply_defaults(resources.PODS, {"spec": spec})
    assert 'Pod in version "v1" cannot be handled as a Pod: ' in caught.value.message
    assert message in caught.value.message


def test_custom_resources_are_left_alone():
    obj = {"spec": {"x": None}}
    apply_defaults(Resource("x.io", "v1", "things", "Thing"), obj)
    assert obj == {"spec": {"x": None}}
