"""The chain of plugins a write goes through, in the order of upstream's.

Mutating plugins complete the object, then the cluster's mutating webhooks change it; validating
plugins and webhooks see what would be stored; the quota is charged last. NamespaceLifecycle and
the RBAC escalation check are here, the rest in modules of their own.

Only webhooks are waited for. A write that concerns none passes without giving way to another.

Source: Kubernetes reference, "Admission Control".
"""

from __future__ import annotations

from collections.abc import Callable

from underway.api.cel.authorizer import deciding
from underway.api.objects import Object, deleting, name_of, namespace_of
from underway.api.patches import copy_json
from underway.base.clock import Clock, rfc3339
from underway.base.errors import Cause, Forbidden
from underway.server import crds
from underway.server.addresses import Addresses, Release
from underway.server.admission import nodes, typecheck
from underway.server.admission.classes import Classes
from underway.server.admission.limits import LimitRanger
from underway.server.admission.mutating import MutatingPolicies, Round
from underway.server.admission.pods import PRIORITY_CLASSES, PodDefaults
from underway.server.admission.policies import ValidatingPolicies
from underway.server.admission.quota import Quotas
from underway.server.admission.security import PodSecurity
from underway.server.admission.webhooks import Webhooks
from underway.server.admission.write import CREATE, DELETE, Write
from underway.server.call import not_found, refused
from underway.server.catalog import Catalog
from underway.server.evaluating import Evaluations
from underway.server.identity import Attributes
from underway.server.rbac import Rbac
from underway.server.store import Key, Store

IMMORTAL_NAMESPACES = ("default", "kube-system", "kube-public")
_RBAC = "rbac.authorization.k8s.io"
_AGGREGATION = "aggregationRule"
_EVERYTHING = (
    {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]},
    {"verbs": ["*"], "nonResourceURLs": ["*"]},
)


def _nothing() -> None:
    """There is nothing to give back."""


class Admission:
    """Decides over writes, with the cluster's latest state at hand."""

    def __init__(
        self, store: Store, catalog: Catalog, rbac: Rbac, clock: Clock, service_cidr: str
    ) -> None:
        self._store = store
        self._catalog = catalog
        self._rbac = rbac
        self._clock = clock
        self.addresses = Addresses(service_cidr)
        self._pods = PodDefaults(store)
        self._limits = LimitRanger(store)
        self._classes = Classes(store, rbac)
        self._security = PodSecurity(store)
        self.quotas = Quotas(store)
        self.evaluations = Evaluations()
        self._webhooks = Webhooks(store, catalog, self.evaluations)
        self._policies = ValidatingPolicies(store, catalog)
        self._mutating = MutatingPolicies(store, catalog)

    async def aclose(self) -> None:
        """Close the connections to webhooks, and end the process that evaluates."""
        await self.evaluations.aclose()
        await self._webhooks.aclose()

    async def mutate(self, write: Write, complete: Callable[[Object], None]) -> bool:
        """Complete ``write.new`` in place; ``complete`` fills in its kind's defaults.

        Returns:
            Whether policies or webhooks changed it.

        Raises:
            Forbidden: it is refused.
            NotFound: its namespace does not exist.
            InternalError: a webhook that must be heard could not be asked.
        """
        self._fill(write)
        with deciding(self._rbac.decide):
            first = await self._apply_policies(write, complete)
            if await self._webhooks.mutate(write, complete):
                first.changes += 1
            if not first.changes:
                return False
            self._fill(write)
            if (await self._apply_policies(write, complete, first)).changes:
                self._fill(write)
        return True

    async def _apply_policies(
        self, write: Write, complete: Callable[[Object], None], last: Round | None = None
    ) -> Round:
        """One pass over the mutating policies; from the start again after a conversion."""
        assert write.new is not None
        before = copy_json(write.new) if self._mutating.any() else None

        def work() -> Round:
            if before is not None and write.new is not None:
                write.new.clear()
                write.new.update(copy_json(before))
            return self._mutating.mutate(write, complete, last)

        return await self.evaluations.run(work) if before is not None else Round()

    def _fill(self, write: Write) -> None:
        """The plugins that only need the cluster's state; twice is the same as once."""
        served, new = write.served, write.new
        assert new is not None
        if write.operation == CREATE:
            if served.resource.namespaced:
                self._namespace_open(write)
            nodes.check_create(write)
            nodes.taint(write)
            self._classes.fill(write)
            if served.storage == "pods":
                self._pods.fill(served, new)
                self._limits.fill(write)
        else:
            nodes.check_change(write)
            if served.storage == "pods" and not write.subresource and write.old is not None:
                self._pods.keep(new, write.old)

    async def validate(self, write: Write) -> None:
        """Decide over what would be stored, or deleted.

        Raises:
            Forbidden: it is refused.
            InternalError: a webhook that must be heard could not be asked.
        """
        if write.operation == DELETE:
            self._check_delete(write)
        else:
            self._security.check(write)
            if not write.subresource:
                self._check_whole(write)
        with deciding(self._rbac.decide):
            await self.evaluations.run(lambda: self._policies.validate(write))
            await self._webhooks.validate(write)

    def settle(self, write: Write) -> None:
        """The last word, after which nothing is waited for until the write is stored.

        Raises:
            Forbidden: the state of the cluster does not allow the write any more.
        """
        if write.operation == CREATE and write.served.resource.namespaced:
            self._namespace_open(write)
        self.quotas.charge(write)

    def allocate(self, write: Write) -> Release:
        """Give a Service its addresses.

        Returns:
            Gives back what was allocated, should the write fail.
        """
        if write.served.storage != "services" or write.subresource or write.new is None:
            return _nothing
        return self.addresses.assign(write.new, write.old)

    def finish(self, write: Write) -> None:
        """What the server itself says in the status of an object."""
        if write.served.storage == crds.STORAGE and not write.subresource:
            assert write.new is not None
            crds.establish(write.new, write.old, self._catalog, rfc3339(self._clock.now()))
        if write.served.storage == typecheck.POLICIES and not write.subresource:
            assert write.new is not None
            write.new["status"] = typecheck.status(write.new, self._catalog)

    # -- validating plugins ----------------------------------------------------------------

    def _check_whole(self, write: Write) -> None:
        storage, new = write.served.storage, write.new
        assert new is not None
        self._limits.check(write)
        self._classes.check(write)
        if storage.endswith(_RBAC):
            self._check_rbac(write)
        elif storage == PRIORITY_CLASSES:
            self._pods.check_class(write)

    def _check_rbac(self, write: Write) -> None:
        """Nobody gives what they do not have."""
        new, old = write.new, write.old
        assert new is not None
        namespace, resource = namespace_of(new), write.served.resource.plural
        if "bindings" in resource:
            if old is not None and new.get("subjects") == old.get("subjects"):
                return
            role = new.get("roleRef") or {}
            verb, resource = "bind", f"{role.get('kind', '')}s".lower()
            name, rules = str(role.get("name") or ""), list(self._rbac.role_rules(role, namespace))
        else:
            if old is not None and all(new.get(x) == old.get(x) for x in ("rules", _AGGREGATION)):
                return
            verb, name, rules = "escalate", write.name, new.get("rules") or []
            if new.get(_AGGREGATION):
                # It may come to hold whatever is labelled so.
                rules = [*rules, *_EVERYTHING]
        asked = Attributes(verb, _RBAC, "v1", resource, namespace=namespace, name=name)
        if not self._rbac.allows(write.user, asked):
            why = self._rbac.lacks(write.user, rules, namespace)
            if why:
                raise refused(Forbidden, write.served, write.name, why)

    def _check_delete(self, write: Write) -> None:
        if write.served.storage == "namespaces" and write.name in IMMORTAL_NAMESPACES:
            why = "this namespace may not be deleted"
            raise refused(Forbidden, write.served, write.name, why)
        nodes.check_change(write)

    # -- NamespaceLifecycle ----------------------------------------------------------------

    def _namespace_open(self, write: Write) -> None:
        assert write.new is not None
        name = namespace_of(write.new)
        row = self._store.latest(Key("namespaces", "", name))
        if row is None:
            spaces = self._catalog.find("", "v1", "namespaces")
            assert spaces is not None
            raise not_found(spaces, name)
        # Cheaper than decoding: most namespaces are not being deleted.
        if b'"deletionTimestamp"' in row.data and deleting(row.decode()):
            why = f"unable to create new content in namespace {name} because it is being terminated"
            resource = write.served.resource
            raise Forbidden(
                f'{resource.group_resource} "{name_of(write.new)}" is forbidden: {why}',
                details={"name": name_of(write.new), "kind": resource.plural},
                causes=[
                    Cause(
                        "metadata.namespace",
                        f"namespace {name} is being terminated",
                        "NamespaceTerminating",
                    )
                ],
            )
