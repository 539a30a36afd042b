"""The objects a pod is made from: ConfigMaps, Secrets, Services, tokens, claims."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from underway.api.objects import (
    Object,
    controller_of,
    deleting,
    name_of,
    namespace_of,
    uid_of,
)
from underway.api.resources import (
    PERSISTENTVOLUMECLAIMS,
    PERSISTENTVOLUMES,
    SERVICEACCOUNTS,
    SERVICES,
)
from underway.base.clock import Clock, parse_rfc3339
from underway.base.errors import BadRequest, NotFound
from underway.capabilities.node.controller.references import References
from underway.capabilities.node.rules import payload
from underway.capabilities.node.rules.environment import Sources
from underway.capabilities.node.rules.fields import Machine
from underway.client import Client
from underway.reconcile.manager import Manager

REFRESH_SHARE = 0.8  # of a token's life, after which it is replaced


@dataclass(frozen=True, slots=True)
class _Token:
    text: str
    refresh_at: datetime


class Tokens:
    """The service-account tokens of one pod, kept until they are due."""

    def __init__(self, client: Client, clock: Clock) -> None:
        self._client = client
        self._clock = clock
        self._held: dict[tuple[str, str], _Token] = {}

    @property
    def due(self) -> datetime | None:
        """When the first of them is to be replaced."""
        return min((token.refresh_at for token in self._held.values()), default=None)

    async def of(self, pod: Object, volume: Object) -> dict[str, str]:
        """The tokens a volume wants, by path.

        Raises:
            UnderwayError: the API server gave none.
        """
        found = {}
        for wanted in payload.token_requests(volume):
            key = (volume["name"], wanted.path)
            held = self._held.get(key)
            if held is None or self._clock.now() >= held.refresh_at:
                held = self._held[key] = await self._ask(pod, wanted)
            found[wanted.path] = held.text
        return found

    async def _ask(self, pod: Object, wanted: payload.TokenRequest) -> _Token:
        account = (pod.get("spec") or {}).get("serviceAccountName") or "default"
        answer = await self._client.create(
            SERVICEACCOUNTS,
            {
                "apiVersion": "authentication.k8s.io/v1",
                "kind": "TokenRequest",
                "spec": {
                    "audiences": [wanted.audience] if wanted.audience else [],
                    "expirationSeconds": wanted.expiration_s,
                    "boundObjectRef": {
                        "apiVersion": "v1",
                        "kind": "Pod",
                        "name": name_of(pod),
                        "uid": uid_of(pod),
                    },
                },
            },
            namespace_of(pod),
            name=account,
            subresource="token",
        )
        status = answer.get("status") or {}
        now = self._clock.now()
        life = parse_rfc3339(status["expirationTimestamp"]) - now
        return _Token(status["token"], now + max(life * REFRESH_SHARE, timedelta(seconds=10)))


class Material:
    """Finds what pods name."""

    def __init__(self, manager: Manager, root_ca: Path) -> None:
        self._client = manager.client
        self._root_ca = root_ca
        self.references = References(manager.client, manager.clock)
        self.services = manager.informer(SERVICES)

    async def synced(self) -> None:
        """Return once the Services are there."""
        await self.services.synced()

    async def sources(self, pod: Object) -> Sources:
        """The objects the pod's containers and volumes name, those that exist."""
        configmaps, secrets = payload.referenced(pod)
        namespace = namespace_of(pod)
        named = [("configmap", namespace, name) for name in configmaps]
        named += [("secret", namespace, name) for name in secrets]
        self.references.hold(uid_of(pod), named)
        return Sources(
            await self._found("configmap", namespace, configmaps),
            await self._found("secret", namespace, secrets),
            [*self.services.list(namespace), *self._api_service(namespace)],
        )

    async def files(
        self, pod: Object, sources: Sources, machine: Machine, pod_ip: str, tokens: Tokens
    ) -> dict[str, payload.Files]:
        """The contents of the pod's volumes that come from objects, by volume name.

        Raises:
            NotFound: something that is not optional does not exist; the message names the volume.
        """
        found: dict[str, payload.Files] = {}
        root_ca = self._root_ca.read_text() if self._root_ca.exists() else ""
        for volume in (pod.get("spec") or {}).get("volumes") or ():
            held = await tokens.of(pod, volume)
            try:
                files = payload.files_of(volume, pod, sources, machine, pod_ip, held, root_ca)
            except NotFound as error:
                raise NotFound(
                    f'MountVolume.SetUp failed for volume "{volume["name"]}" : {error.message}'
                ) from error
            if files is not None:
                found[volume["name"]] = files
        return found

    async def claims(self, pod: Object) -> dict[str, Object]:
        """The PersistentVolume behind each claim the pod uses, for those that are bound.

        Raises:
            BadRequest: a claim is being deleted, or belongs to another pod.
        """
        found = {}
        for volume in (pod.get("spec") or {}).get("volumes") or ():
            name = payload.claim_name(pod, volume)
            if not name:
                continue
            try:
                claim = await self._client.get(PERSISTENTVOLUMECLAIMS, name, namespace_of(pod))
                bound = (claim.get("spec") or {}).get("volumeName")
                if not bound or (claim.get("status") or {}).get("phase") != "Bound":
                    continue
                if deleting(claim) and (pod.get("status") or {}).get("phase") != "Running":
                    raise BadRequest(f'persistentvolumeclaim "{name}" is being deleted')
                if volume.get("ephemeral") and not _owns(pod, claim):
                    raise BadRequest(f'persistentvolumeclaim "{name}" is not this pod\'s own')
                found[name] = await self._client.get(PERSISTENTVOLUMES, bound)
            except NotFound:
                continue
        return found

    async def _found(self, kind: str, namespace: str, names: set[str]) -> dict[str, Object]:
        found = {name: await self.references.find((kind, namespace, name)) for name in names}
        return {name: obj for name, obj in found.items() if obj is not None}

    def _api_service(self, namespace: str) -> list[Object]:
        found = self.services.get("default/kubernetes") if namespace != "default" else None
        return [found] if found else []


def _owns(pod: Object, claim: Object) -> bool:
    return (controller_of(claim) or {}).get("uid") == uid_of(pod)
