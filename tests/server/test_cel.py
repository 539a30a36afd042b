"""Rules in CEL: those of custom resources' schemas, and validating admission policies."""

import asyncio
from contextlib import aclosing

import pytest
import yaml
from tests.server.cluster import Cluster
from tests.server.running import configmap, pod, serve

from underway.api.resources import (
    CONFIGMAPS,
    CUSTOMRESOURCEDEFINITIONS,
    NAMESPACES,
    PODS,
    VALIDATINGADMISSIONPOLICIES,
    VALIDATINGADMISSIONPOLICYBINDINGS,
    Resource,
)
from underway.base.errors import Forbidden, Invalid
from underway.server import crds

ADMISSION = "admissionregistration.k8s.io/v1"
WIDGETS = """
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {plural: widgets, kind: Widget}
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {status: {}}
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            x-kubernetes-validations:
            - rule: self.min <= self.max
              messageExpression: "'min ' + string(self.min) + ' is above max ' + string(self.max)"
            - rule: self.zone == oldSelf.zone
              message: zone is immutable
              fieldPath: .zone
              reason: FieldValueForbidden
            properties:
              min: {type: integer}
              max: {type: integer}
              zone: {type: string, default: a}
              memory:
                type: string
                maxLength: 20
                x-kubernetes-validations:
                - {rule: isQuantity(self), message: memory must be a quantity}
"""
WIDGET = Resource("example.com", "v1", "widgets", "Widget")


def widget(name="one", **spec):
    spec = {"min": 1, "max": 2, **spec}
    metadata = {"name": name}
    return {"apiVersion": "example.com/v1", "kind": "Widget", "metadata": metadata, "spec": spec}


def messages(error):
    return [(cause.field, cause.message) for cause in error.value.causes]


def test_rules_hold_for_creation_and_update(tmp_path):
    async def scenario(_server, admin):
        await admin.create(CUSTOMRESOURCEDEFINITIONS, yaml.safe_load(WIDGETS))
        with pytest.raises(Invalid) as caught:
            await admin.create(WIDGET, widget(min=3, memory="much"), namespace="default")
        assert messages(caught) == [
            ("spec", 'Invalid value: "object": min 3 is above max 2'),
            ("spec.memory", 'Invalid value: "string": memory must be a quantity'),
        ]
        made = await admin.create(WIDGET, widget(memory="1Gi"), namespace="default")
        made["spec"]["zone"] = "b"
        with pytest.raises(Invalid, match="Forbidden: zone is immutable"):
            await admin.replace(WIDGET, made)
        made["spec"] = {**made["spec"], "zone": "a", "max": 5}
        assert (await admin.replace(WIDGET, made))["spec"]["max"] == 5

    serve(tmp_path, scenario)


def test_what_was_invalid_before_may_stay(tmp_path):
    async def scenario(_server, admin):
        crd = yaml.safe_load(WIDGETS)
        properties = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
        memory = properties["spec"]["properties"].pop("memory")
        properties["spec"]["properties"]["memory"] = {"type": "string"}
        crd = await admin.create(CUSTOMRESOURCEDEFINITIONS, crd)
        made = await admin.create(WIDGET, widget(memory="x" * 30), namespace="default")
        versions = crd["spec"]["versions"]
        schema = versions[0]["schema"]["openAPIV3Schema"]
        schema["properties"]["spec"]["properties"]["memory"] = memory
        await admin.replace(CUSTOMRESOURCEDEFINITIONS, crd)
        made["spec"]["max"] = 9
        made = await admin.replace(WIDGET, made)
        made["spec"]["memory"] = "y" * 30
        with pytest.raises(Invalid) as caught:
            await admin.replace(WIDGET, made)
        assert [field for field, _ in messages(caught)] == ["spec.memory"] * 2

    serve(tmp_path, scenario)


def test_older_objects_show_defaults_added_since(tmp_path):
    async def scenario(_server, admin):
        crd = await admin.create(CUSTOMRESOURCEDEFINITIONS, yaml.safe_load(WIDGETS))
        await admin.create(WIDGET, widget(), namespace="default")
        schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
        color = {"type": "string", "default": "red"}
        schema["properties"]["spec"]["properties"]["color"] = color
        await admin.replace(CUSTOMRESOURCEDEFINITIONS, crd)
        assert (await admin.get(WIDGET, "one", namespace="default"))["spec"]["color"] == "red"
        listed = await admin.list(WIDGET, namespace="default")
        assert [each["spec"]["color"] for each in listed.items] == ["red"]

    serve(tmp_path, scenario)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("self.min <=", "compilation failed: ERROR: <input>:1:12"),
        ("self.mni > 1", "undefined field 'mni'"),
        ("self.text.matches(self.text)", "estimated rule cost exceeds budget"),
    ],
)
def test_a_definition_with_a_bad_rule_is_refused(tmp_path, rule, message):
    async def scenario(_server, admin):
        crd = yaml.safe_load(WIDGETS)
        spec = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
        spec["properties"]["text"] = {"type": "string"}
        spec["x-kubernetes-validations"].append({"rule": rule})
        with pytest.raises(Invalid) as caught:
            await admin.create(CUSTOMRESOURCEDEFINITIONS, crd)
        field, text = messages(caught)[0]
        assert message in text
        assert field == (
            "spec.versions[0].schema.openAPIV3Schema.properties[spec]"
            ".x-kubernetes-validations[2].rule"
        )

    serve(tmp_path, scenario)


def test_names_that_become_free_are_taken(tmp_path):
    async def scenario(_server, admin):
        first = yaml.safe_load(WIDGETS)
        second = yaml.safe_load(WIDGETS.replace("widgets", "gadgets"))  # of the same kind
        await admin.create(CUSTOMRESOURCEDEFINITIONS, first)
        made = await admin.create(CUSTOMRESOURCEDEFINITIONS, second)
        reasons = [c["reason"] for c in made["status"]["conditions"]]
        assert reasons == ["KindConflict", "NotAccepted"]
        version = made["metadata"]["resourceVersion"]
        await admin.delete(CUSTOMRESOURCEDEFINITIONS, "widgets.example.com")
        fields = "metadata.name=gadgets.example.com"
        watch = admin.watch(CUSTOMRESOURCEDEFINITIONS, resource_version=version, fields=fields)
        async with asyncio.timeout(30), aclosing(watch):
            async for event in watch:
                if crds.is_established(event.object):
                    break
        gadgets = Resource("example.com", "v1", "gadgets", "Widget")
        await admin.create(gadgets, widget(), namespace="default")

    serve(tmp_path, scenario)


# -- validating admission policies ---------------------------------------------------------


def policy(*validations, resources=("pods",), name="p", **spec):
    rule = {"apiGroups": ["*"], "apiVersions": ["*"], "operations": ["CREATE", "UPDATE"]}
    return {
        "apiVersion": ADMISSION,
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": name},
        "spec": {
            "matchConstraints": {"resourceRules": [{**rule, "resources": list(resources)}]},
            "validations": [{"expression": v} if isinstance(v, str) else v for v in validations],
            **spec,
        },
    }


def binding(*actions, name="b", **spec):
    return {
        "apiVersion": ADMISSION,
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": name},
        "spec": {"policyName": "p", "validationActions": list(actions or ("Deny",)), **spec},
    }


async def bind(admin, a_policy, a_binding=None):
    await admin.create(VALIDATINGADMISSIONPOLICIES, a_policy)
    await admin.create(VALIDATINGADMISSIONPOLICYBINDINGS, a_binding or binding())


def test_a_policy_denies_with_upstreams_words(tmp_path):
    async def scenario(_server, admin):
        denied = {
            "expression": "object.spec.containers.all(c, !variables.latest.exists(i, i == c.image))",
            "messageExpression": "'images without a tag: ' + variables.latest.join(', ')",
        }
        images = "object.spec.containers.map(c, c.image).filter(i, !i.contains(':'))"
        await bind(admin, policy(denied, variables=[{"name": "latest", "expression": images}]))
        with pytest.raises(Invalid) as caught:
            await admin.create(PODS, pod("web"), namespace="default")
        assert caught.value.message == (
            "pods \"web\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied"
            " request: images without a tag: nginx"
        )
        tagged = pod("web", containers=[{"name": "main", "image": "nginx:1"}])
        await admin.create(PODS, tagged, namespace="default")

    serve(tmp_path, scenario)


def configmaps(*validations, **spec):
    return policy(*validations, resources=("configmaps",), **spec)


def test_reasons_old_objects_and_requests(tmp_path):
    async def scenario(_server, admin):
        rules = [
            {
                "expression": "request.operation == 'CREATE' || object.data == oldObject.data",
                "message": "frozen",
                "reason": "Forbidden",
            },
            "request.userInfo.username == 'admin' && request.namespace == 'default'",
            "namespaceObject.metadata.name == 'default' && oldObject == null || object != null",
        ]
        await bind(admin, configmaps(*rules))
        made = await admin.create(CONFIGMAPS, configmap("c", a="1"), namespace="default")
        made["data"] = {"a": "2"}
        with pytest.raises(Forbidden, match="denied request: frozen"):
            await admin.replace(CONFIGMAPS, made)
        with pytest.raises(Invalid, match="failed expression: request"):
            await admin.create(CONFIGMAPS, configmap("c"), namespace="kube-public")
        await admin.delete(CONFIGMAPS, "c", namespace="default")

    serve(tmp_path, scenario)


def test_only_what_matches_is_judged(tmp_path):
    async def scenario(_server, admin):
        strict = configmaps(
            "false",
            matchConditions=[{"name": "named", "expression": "object.metadata.name != 'x'"}],
        )
        strict["spec"]["matchConstraints"]["excludeResourceRules"] = [
            {
                **strict["spec"]["matchConstraints"]["resourceRules"][0],
                "resourceNames": ["spared"],
            }
        ]
        resources = {"namespaceSelector": {"matchLabels": {"strict": "yes"}}}
        await bind(admin, strict, binding(matchResources=resources))
        space = {"metadata": {"name": "tight", "labels": {"strict": "yes"}}}
        await admin.create(NAMESPACES, {"apiVersion": "v1", "kind": "Namespace", **space})
        await admin.create(CONFIGMAPS, configmap("a"), namespace="default")
        for name in ("x", "spared"):
            await admin.create(CONFIGMAPS, configmap(name), namespace="tight")
        with pytest.raises(Invalid, match="failed expression: false"):
            await admin.create(CONFIGMAPS, configmap("a"), namespace="tight")

    serve(tmp_path, scenario)


def test_parameters_come_from_the_binding(tmp_path):
    async def scenario(_server, admin):
        limits = configmap("limits", most="2")
        await admin.create(CONFIGMAPS, limits, namespace="kube-system")
        counted = policy(
            "size(object.spec.containers) <= int(params.data.most)",
            paramKind={"apiVersion": "v1", "kind": "ConfigMap"},
        )
        reference = {
            "name": "limits",
            "namespace": "kube-system",
            "parameterNotFoundAction": "Deny",
        }
        await bind(admin, counted, binding(paramRef=reference))
        many = [{"name": f"c{n}", "image": "i:1"} for n in range(3)]
        with pytest.raises(Invalid, match="failed expression: size"):
            await admin.create(PODS, pod("a", containers=many), namespace="default")
        await admin.create(PODS, pod("a", containers=many[:2]), namespace="default")
        await admin.delete(CONFIGMAPS, "limits", namespace="kube-system")
        with pytest.raises(Invalid, match="no params found for policy binding with `Deny`"):
            await admin.create(PODS, pod("b", containers=many[:2]), namespace="default")

    serve(tmp_path, scenario)


def test_the_failure_policy_decides_where_an_expression_cannot(tmp_path):
    async def scenario(_server, admin):
        created = await admin.create(
            VALIDATINGADMISSIONPOLICIES, configmaps("object.data.level == 'x'")
        )
        await admin.create(VALIDATINGADMISSIONPOLICYBINDINGS, binding())
        with pytest.raises(Invalid, match="resulted in error: no such key: level"):
            await admin.create(CONFIGMAPS, configmap("c", a="1"), namespace="default")
        created["spec"]["failurePolicy"] = "Ignore"
        await admin.replace(VALIDATINGADMISSIONPOLICIES, created)
        await admin.create(CONFIGMAPS, configmap("c", a="1"), namespace="default")

    serve(tmp_path, scenario)


def test_a_hostile_policy_stops_at_its_budget(tmp_path):
    async def scenario(_server, admin):
        text = "object.data.a"
        for level in range(12):
            text = f"cel.bind(v{level}, {text}, v{level}+v{level}+v{level}+v{level})"
        await bind(admin, configmaps(f"{text}.size() > 0"))
        with pytest.raises(Invalid, match="actual cost limit exceeded"):
            await admin.create(CONFIGMAPS, configmap("c", a="x" * 1000), namespace="default")

    serve(tmp_path, scenario)


def test_policies_and_bindings_are_checked(tmp_path):
    async def scenario(_server, admin):
        broken = policy(
            "object.x ==",
            "size(object.x)",
            "variables.later",
            variables=[
                {"name": "a", "expression": "variables.b"},
                {"name": "b", "expression": "1"},
            ],
        )
        with pytest.raises(Invalid) as caught:
            await admin.create(VALIDATINGADMISSIONPOLICIES, broken)
        found = dict(messages(caught))
        assert "undefined field 'b'" in found["spec.variables[0].expression"]
        assert "compilation failed" in found["spec.validations[0].expression"]
        assert "must evaluate to bool" in found["spec.validations[1].expression"]
        assert "undefined field 'later'" in found["spec.validations[2].expression"]
        with pytest.raises(Invalid, match="must not contain both Deny and Warn"):
            await admin.create(VALIDATINGADMISSIONPOLICYBINDINGS, binding("Deny", "Warn"))
        with pytest.raises(Invalid, match="Unsupported value"):
            await admin.create(VALIDATINGADMISSIONPOLICYBINDINGS, binding("Nag"))

    serve(tmp_path, scenario)


# -- kubectl -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with Cluster(tmp_path_factory.mktemp("cluster")) as running:
        yield running


@pytest.mark.peer
def test_kubectl_shows_what_a_rule_says(cluster):
    cluster.kubectl("apply", "-f", "-", stdin=WIDGETS)
    cluster.kubectl("wait", "--for=condition=Established", "crd/widgets.example.com")
    done = cluster.kubectl("apply", "-f", "-", stdin=yaml.safe_dump(widget(min=7)), check=False)
    assert done.returncode == 1
    assert done.stderr.strip() == (
        'The Widget "one" is invalid: spec: Invalid value: "object": min 7 is above max 2'
    )
    cluster.kubectl("apply", "-f", "-", stdin=yaml.safe_dump(widget()))
    patch = ["patch", "widget", "one", "--type=merge", "-p", '{"spec": {"zone": "b"}}']
    done = cluster.kubectl(*patch, check=False)
    assert "spec.zone: Forbidden: zone is immutable" in done.stderr
    bad = WIDGETS.replace("self.min <= self.max", "self.min <= ")
    done = cluster.kubectl("apply", "-f", "-", stdin=bad, check=False)
    assert "x-kubernetes-validations[0].rule: Invalid value" in done.stderr


@pytest.mark.peer
def test_kubectl_shows_a_policys_denial_and_warning(cluster):
    denied = configmaps({"expression": "!('secret' in object.data)", "message": "no secrets here"})
    documents = [denied, binding("Deny")]
    cluster.kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(documents))
    create = ["create", "configmap", "c", "--from-literal=secret=1"]
    done = cluster.kubectl(*create, check=False)
    assert done.returncode == 1
    assert (
        "ValidatingAdmissionPolicy 'p' with binding 'b' denied request: no secrets here"
        in done.stderr
    )
    cluster.kubectl("apply", "-f", "-", stdin=yaml.safe_dump(binding("Warn")))
    done = cluster.kubectl(*create, check=False)
    assert done.returncode == 0
    assert (
        "Warning: Validation failed for ValidatingAdmissionPolicy 'p' with binding 'b':"
        " no secrets here" in done.stderr
    )
    assert "no secrets" not in cluster.kubectl("get", "validatingadmissionpolicies", "-o", "name")
    cluster.kubectl("delete", "validatingadmissionpolicy/p", "validatingadmissionpolicybinding/b")


def test_a_policys_status_tells_of_fields_its_kinds_do_not_have(tmp_path):
    async def scenario(_server, admin):
        good = {"expression": "object.spec.containers.all(c, c.image != '' && has(c.resources))"}
        bad = {
            "expression": "object.spec.hostNetwrk == true",
            "messageExpression": "object.metadata.nam",
        }
        given = policy(good, bad)
        given["spec"]["matchConstraints"]["resourceRules"][0].update(
            apiGroups=[""], apiVersions=["v1"]
        )
        made = await admin.create(VALIDATINGADMISSIONPOLICIES, given)
        assert made["status"] == {
            "observedGeneration": 1,
            "typeChecking": {
                "expressionWarnings": [
                    {
                        "fieldRef": "spec.validations[1].expression",
                        "warning": "v1, Kind=Pod: ERROR: <input>: undefined field 'hostNetwrk'",
                    },
                    {
                        "fieldRef": "spec.validations[1].messageExpression",
                        "warning": "v1, Kind=Pod: ERROR: <input>: undefined field 'nam'",
                    },
                ]
            },
        }
        del made["spec"]["validations"][1]
        made = await admin.replace(VALIDATINGADMISSIONPOLICIES, made)
        assert made["status"] == {"observedGeneration": 2, "typeChecking": {}}

    serve(tmp_path, scenario)
