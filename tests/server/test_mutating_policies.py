"""Mutating admission policies."""

import pytest
import yaml
from tests.server.cluster import Cluster
from tests.server.running import configmap, deployment, pod, serve

from underway.api.resources import CONFIGMAPS, DEPLOYMENTS, PODS, Resource
from underway.base.errors import Forbidden, Invalid
from underway.client import Client

GROUP = "admissionregistration.k8s.io"
POLICIES = Resource(GROUP, "v1", "mutatingadmissionpolicies", "MutatingAdmissionPolicy", False)
BINDINGS = Resource(
    GROUP, "v1", "mutatingadmissionpolicybindings", "MutatingAdmissionPolicyBinding", False
)


def apply(text):
    return {"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": text}}


def patch(text):
    return {"patchType": "JSONPatch", "jsonPatch": {"expression": text}}


def policy(name, *mutations, resources=("pods",), group="", **spec):
    rule = {
        "operations": ["CREATE", "UPDATE"],
        "apiGroups": [group],
        "apiVersions": ["v1"],
        "resources": list(resources),
    }
    return {
        "apiVersion": f"{GROUP}/v1",
        "kind": "MutatingAdmissionPolicy",
        "metadata": {"name": name},
        "spec": {
            "matchConstraints": {"resourceRules": [rule]},
            "reinvocationPolicy": "Never",
            "mutations": list(mutations),
            **spec,
        },
    }


async def bind(client, made, **spec):
    await client.create(POLICIES, made)
    name = made["metadata"]["name"]
    binding = {
        "apiVersion": f"{GROUP}/v1",
        "kind": "MutatingAdmissionPolicyBinding",
        "metadata": {"name": name},
        "spec": {"policyName": name, **spec},
    }
    await client.create(BINDINGS, binding)


SIDECAR = """
Object{
  spec: Object.spec{
    initContainers: [
      Object.spec.initContainers{
        name: "mesh-proxy",
        image: "mesh/proxy:v1",
        args: variables.args,
        restartPolicy: "Always"
      }
    ]
  },
  metadata: Object.metadata{labels: {"mesh": string(has(object.spec.initContainers))}}
}
"""


def test_an_apply_configuration_is_merged_by_keys(tmp_path):
    async def scenario(_server, client):
        text = SIDECAR.replace("        args: variables.args,\n", "")
        await bind(client, policy("sidecar", apply(text)))
        first = {"name": "first", "image": "busybox"}
        made = await client.create(PODS, pod("a", initContainers=[first]), "default")
        names = [each["name"] for each in made["spec"]["initContainers"]]
        assert names == ["first", "mesh-proxy"]
        assert made["spec"]["initContainers"][1]["terminationMessagePolicy"] == "File"  # defaulted
        assert made["metadata"]["labels"] == {"mesh": "true"}

    serve(tmp_path, scenario)


def test_what_is_owned_whole_is_left_to_json_patches(tmp_path):
    async def scenario(_server, client):
        variables = [{"name": "args", "expression": "['proxy']"}]
        await bind(client, policy("sidecar", apply(SIDECAR), variables=variables))
        with pytest.raises(Forbidden) as refused:
            await client.create(PODS, pod("a"), "default")
        assert refused.value.message == (
            "pods \"a\" is forbidden: policy 'sidecar' with binding 'sidecar' denied request: error"
            " applying patch: invalid ApplyConfiguration: may not mutate atomic arrays, maps or"
            " structs: .spec.initContainers[0].args"
        )

    serve(tmp_path, scenario)


def test_json_patches_see_variables_and_escape_keys(tmp_path):
    text = """
    (has(object.metadata.labels) ? [] : [
      JSONPatch{op: "add", path: "/metadata/labels", value: {}}
    ]) + [
      JSONPatch{
        op: "add",
        path: "/metadata/labels/" + jsonpatch.escapeKey("example.com/team"),
        value: variables.team
      },
      JSONPatch{op: "test", path: "/spec/containers/0/name", value: "main"},
      JSONPatch{op: "replace", path: "/spec/containers/0/image", value: "mirror/" +
        object.spec.containers[0].image}
    ]
    """

    async def scenario(_server, client):
        variables = [{"name": "team", "expression": "request.userInfo.username + '-team'"}]
        await bind(client, policy("team", patch(text), variables=variables))
        made = await client.create(PODS, pod("a"), "default")
        assert made["metadata"]["labels"] == {"example.com/team": "admin-team"}
        assert made["spec"]["containers"][0]["image"] == "mirror/nginx"

    serve(tmp_path, scenario)


def test_parameters_and_bindings_choose_what_is_changed(tmp_path):
    async def scenario(_server, client):
        await client.create(CONFIGMAPS, configmap("wanted", replicas="3"), "default")
        text = "Object{spec: Object.spec{replicas: int(params.data.replicas)}}"
        made = policy(
            "replicas",
            apply(text),
            resources=["deployments"],
            group="apps",
            paramKind={"apiVersion": "v1", "kind": "ConfigMap"},
            matchConditions=[{"name": "not-big", "expression": "object.spec.replicas < 3"}],
        )
        selector = {"matchLabels": {"scaled": "yes"}}
        await bind(
            client,
            made,
            paramRef={"name": "wanted", "parameterNotFoundAction": "Deny"},
            matchResources={"objectSelector": selector},
        )
        plain = await client.create(DEPLOYMENTS, deployment("a"), "default")
        assert plain["spec"]["replicas"] == 1
        chosen = deployment("b")
        chosen["metadata"]["labels"] = {"scaled": "yes"}
        assert (await client.create(DEPLOYMENTS, chosen, "default"))["spec"]["replicas"] == 3
        chosen = deployment("c", replicas=5)
        chosen["metadata"]["labels"] = {"scaled": "yes"}
        assert (await client.create(DEPLOYMENTS, chosen, "default"))["spec"]["replicas"] == 5
        chosen = deployment("d")
        chosen["metadata"]["labels"] = {"scaled": "yes"}
        with pytest.raises(Forbidden, match="no params found for policy binding"):
            await client.create(DEPLOYMENTS, chosen, "kube-system")

    serve(tmp_path, scenario)


@pytest.mark.parametrize(("again", "count"), [("IfNeeded", "2"), ("Never", "1")])
def test_a_policy_runs_again_when_a_later_one_changed_the_object(tmp_path, again, count):
    count_runs = """
    Object{metadata: Object.metadata{annotations: {
      "runs": string(int(object.metadata.?annotations[?"runs"].orValue("0")) + 1)
    }}}
    """

    async def scenario(_server, client):
        await bind(client, policy("a-counts", apply(count_runs), reinvocationPolicy=again))
        label = apply('Object{metadata: Object.metadata{labels: {"b": "c"}}}')
        await bind(client, policy("b-labels", label))
        made = await client.create(PODS, pod("a"), "default")
        assert made["metadata"]["annotations"]["runs"] == count

    serve(tmp_path, scenario)


def test_the_failure_policy_decides_over_expressions_without_a_value(tmp_path):
    async def scenario(_server, client):
        text = apply('Object{metadata: Object.metadata{labels: {"a": object.metadata.labels.b}}}')
        await bind(client, policy("open", text, failurePolicy="Ignore"))
        assert "labels" not in (await client.create(PODS, pod("a"), "default"))["metadata"]
        await bind(client, policy("shut", text, failurePolicy="Fail"))
        with pytest.raises(Forbidden, match="with binding 'shut' denied request: expression"):
            await client.create(PODS, pod("b"), "default")

    serve(tmp_path, scenario)


def test_the_authorizer_is_asked_for_the_user_who_writes(tmp_path):
    text = """
    Object{metadata: Object.metadata{labels: {
      "secrets": string(authorizer.group("").resource("secrets").namespace("default")
        .check("get").allowed()),
      "same": string(authorizer.requestResource.check("create").allowed())
    }}}
    """

    async def scenario(server, client):
        await bind(client, policy("asks", apply(text)))
        made = await client.create(PODS, pod("a"), "default")
        assert made["metadata"]["labels"] == {"secrets": "true", "same": "true"}
        role = {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "Role",
            "metadata": {"name": "pods"},
            "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["create"]}],
        }
        roles = Resource("rbac.authorization.k8s.io", "v1", "roles", "Role")
        bindings = Resource("rbac.authorization.k8s.io", "v1", "rolebindings", "RoleBinding")
        await client.create(roles, role, "default")
        binding = {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": {"name": "pods"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "pods"},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "jo"}],
        }
        await client.create(bindings, binding, "default")
        made = await Client(server.as_user("jo")).create(PODS, pod("b"), "default")
        assert made["metadata"]["labels"] == {"secrets": "false", "same": "true"}

    serve(tmp_path, scenario)


@pytest.mark.parametrize(
    ("mutation", "message"),
    [
        (apply("Object{spec: Object.metadata{}}"), "matches field name path from root Object type"),
        (apply("Object{"), "compilation failed"),
        ({"patchType": "JSONPatch"}, "jsonPatch is required"),
        (patch("'text'"), "must evaluate to list"),
        (apply("variables.none"), "undefined field 'none'"),
    ],
)
def test_a_policy_that_cannot_work_is_refused(tmp_path, mutation, message):
    async def scenario(_server, client):
        with pytest.raises(Invalid, match=message):
            await client.create(POLICIES, policy("bad", mutation))

    serve(tmp_path, scenario)


def test_names_and_unknown_fields_stay_out_of_reach(tmp_path):
    async def scenario(_server, client):
        rename = 'Object{metadata: Object.metadata{name: "other"}}'
        for number, text in enumerate((rename, "Object{spec: Object.spec{nonsense: 1}}")):
            made = policy(f"p{number}", apply(text))
            await bind(client, made)
            with pytest.raises(Forbidden, match="error applying patch"):
                await client.create(PODS, pod("a"), "default")
            await client.delete(POLICIES, f"p{number}")

    serve(tmp_path, scenario)


@pytest.mark.peer
def test_kubectl_applies_a_policy_and_sees_what_it_does(tmp_path):
    manifests = [
        policy("label", apply('Object{metadata: Object.metadata{labels: {"by": "policy"}}}')),
        {
            "apiVersion": f"{GROUP}/v1",
            "kind": "MutatingAdmissionPolicyBinding",
            "metadata": {"name": "label"},
            "spec": {"policyName": "label"},
        },
    ]
    with Cluster(tmp_path) as cluster:
        cluster.kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(manifests))
        cluster.kubectl("run", "web", "--image=nginx")
        labels = cluster.kubectl("get", "pod", "web", "-o", "jsonpath={.metadata.labels}")
        assert '"by":"policy"' in labels
