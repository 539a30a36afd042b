"""Independent clients of Harbor's API: harborapi, and harbor-api-client, made from its description."""

import asyncio
import base64
import json
import ssl
import subprocess
import sys
from pathlib import Path

import pytest
from tests.capabilities.registry.conftest import image

from underway.transport.registry import credentials
from underway.wire import oci

pytestmark = pytest.mark.peer


@pytest.fixture
def login(served):
    return credentials(served.home.registry_auth, served.host)


def push(client, repository, tag, layer):
    parts = []
    for data in (b"{}", layer):
        client.push_blob(repository, oci.digest_of(data), data, len(data))
        parts.append({"digest": oci.digest_of(data), "size": len(data)})
    content = json.dumps(image(parts[0], parts[1:])).encode()
    return client.push_manifest(repository, tag, content, oci.MANIFEST)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the package's own
def test_harborapi(served, login):
    harborapi = pytest.importorskip("harborapi")
    from harborapi import models
    from harborapi.exceptions import HarborAPIException

    async def scenario():
        client = harborapi.HarborAsyncClient(
            url=f"https://{served.host}/api/v2.0/",
            username=login[0],
            secret=login[1],
            verify=ssl.create_default_context(cafile=str(served.home.pki / "ca.crt")),
        )
        assert (await client.health_check()).status == "healthy"
        assert (await client.get_current_user()).username == "admin"
        await client.create_project(
            models.ProjectReq(project_name="hapi", metadata=models.ProjectMetadata(public="false"))
        )
        assert await client.project_exists("hapi")
        project = await client.get_project("hapi")
        with served.client() as registry:
            digest = push(registry, "hapi/deep/app", "v1", b"layer")
        (repository,) = await client.get_repositories("hapi")
        assert (repository.name, repository.artifact_count) == ("hapi/deep/app", 1)
        artifact = await client.get_artifact(
            "hapi", "deep/app", "v1", with_label=True, with_accessory=True
        )
        assert (artifact.digest, artifact.tags[0].name) == (digest, "v1")
        assert (await client.get_artifacts("hapi", "deep/app", query="tags=v1"))[0].digest == digest
        await client.create_artifact_tag("hapi", "deep/app", "v1", models.Tag(name="stable"))
        tags = await client.get_artifact_tags("hapi", "deep/app", "v1")
        assert {tag.name for tag in tags} == {"v1", "stable"}
        await client.create_user(
            models.UserCreationReq(
                username="hapiuser", password="Passw0rd-x", email="a@b.c", realname="H"
            )
        )
        await client.add_project_member_user("hapi", "hapiuser", 2)
        members = await client.get_project_members("hapi")
        assert {member.entity_name for member in members} == {"admin", "hapiuser"}
        permission = models.RobotPermission(
            kind="project",
            namespace="hapi",
            access=[models.Access(resource="repository", action="pull")],
        )
        robot = await client.create_robot(
            models.RobotCreate(name="hbot", level="project", duration=-1, permissions=[permission])
        )
        assert robot.name == "robot$hapi+hbot"
        assert (await client.get_robot(robot.id)).permissions[0].namespace == "hapi"
        await client.delete_robot(robot.id)
        label = await client.create_label(models.Label(name="good", scope="g"))
        assert label
        rule = models.ImmutableRule(
            tag_selectors=[
                models.ImmutableSelector(kind="doublestar", decoration="matches", pattern="x*")
            ],
            scope_selectors={
                "repository": [
                    models.ImmutableSelector(
                        kind="doublestar", decoration="repoMatches", pattern="**"
                    )
                ]
            },
        )
        await client.create_project_immutable_tag_rule("hapi", rule)
        assert len(await client.get_project_immutable_tag_rules("hapi")) == 1
        hook = models.WebhookPolicy(
            name="h",
            enabled=True,
            event_types=["PUSH_ARTIFACT"],
            targets=[models.WebhookTargetObject(type="http", address="http://127.0.0.1:9")],
        )
        await client.create_webhook_policy("hapi", hook)
        assert (await client.get_webhook_policies("hapi"))[0].name == "h"
        quotas = await client.get_quotas(reference="project", reference_id=str(project.project_id))
        assert quotas[0].used.root["storage"] > 0
        summary = await client.get_project_summary("hapi")
        assert summary.repo_count == 1
        await client.create_gc_schedule(models.Schedule(schedule=models.ScheduleObj(type="Manual")))
        for _ in range(100):
            jobs = await client.get_gc_jobs()
            if jobs and jobs[0].job_status == "Success":
                break
            await asyncio.sleep(0.1)
        assert "freed" in str(await client.get_gc_log(jobs[0].id))
        assert (await client.search("hapi")).project[0].name == "hapi"
        assert (await client.get_statistics()).total_repo_count >= 1
        for read in (
            client.get_audit_logs,
            client.get_system_info,
            client.get_system_volume_info,
            client.get_config,
            client.get_registries,
            client.get_replication_policies,
            client.get_scanners,
            client.get_users,
            client.get_labels,
            client.get_robots,
            client.get_permissions,
            client.get_cve_allowlist,
            client.get_retention_metadata,
            client.get_registry_adapters,
            client.get_scan_all_metrics,
            client.get_gc_schedule,
            client.get_current_user_permissions,
        ):
            await read()
        with pytest.raises(HarborAPIException):
            await client.delete_project("hapi")
        await client.delete_repository("hapi", "deep/app")
        await client.delete_project("hapi")
        assert not await client.project_exists("hapi")
        await client.client.aclose()
        await asyncio.sleep(0.1)  # the loop closes what is left of its connections

    asyncio.run(scenario())


GENERATED = Path(__file__).with_name("generated_client.py")


def test_the_generated_client(served, login):
    """In a process of its own: the package pins versions that nothing else here could live with."""
    pytest.importorskip("harbor_client")
    with served.client() as registry:
        push(registry, "generated/app", "v1", b"layer")
    token = base64.b64encode(":".join(login).encode()).decode()
    given = json.dumps(
        {
            "host": f"https://{served.host}/api/v2.0",
            "username": login[0],
            "password": login[1],
            "ca": str(served.home.pki / "ca.crt"),
            "token": token,
        }
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(GENERATED)],
        input=given,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "calls answered" in done.stdout
