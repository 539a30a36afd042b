"""Classes: which one an object gets that names none, and what the one it names asks for.

DefaultStorageClass, DefaultIngressClass, PersistentVolumeClaimResize, RuntimeClass and
ClusterTrustBundleAttest.

Source: Kubernetes reference, "Admission Control"; kubernetes ``plugin/pkg/admission/storage``,
``network/defaultingressclass``, ``runtimeclass`` and ``certificates/ctbattest``.
"""

from __future__ import annotations

from fractions import Fraction

from underway.api import quantity
from underway.api.objects import Object, annotations_of, meta, name_of
from underway.base.errors import Forbidden
from underway.server.admission.write import CREATE, UPDATE, Write
from underway.server.call import refused
from underway.server.identity import Attributes
from underway.server.rbac import Rbac
from underway.server.store import Key, Store

CLAIMS = "persistentvolumeclaims"
INGRESSES = "ingresses.networking.k8s.io"
BUNDLES = "clustertrustbundles.certificates.k8s.io"
_STORAGE_CLASSES = "storageclasses.storage.k8s.io"
_INGRESS_CLASSES = "ingressclasses.networking.k8s.io"
_RUNTIME_CLASSES = "runtimeclasses.node.k8s.io"
_STORAGE_DEFAULT = (
    "storageclass.kubernetes.io/is-default-class",
    "storageclass.beta.kubernetes.io/is-default-class",
)
_INGRESS_DEFAULT = ("ingressclass.kubernetes.io/is-default-class",)
_OLD_STORAGE_CLASS = "volume.beta.kubernetes.io/storage-class"
_OLD_INGRESS_CLASS = "kubernetes.io/ingress.class"


class Classes:
    """The plugins that look at classes."""

    def __init__(self, store: Store, rbac: Rbac) -> None:
        self._store = store
        self._rbac = rbac

    def fill(self, write: Write) -> None:
        """Complete a new object, in place; doing it twice is the same as doing it once.

        Raises:
            Forbidden: its class is not there, or does not go together with what it says.
        """
        new = write.new
        assert new is not None
        if write.operation != CREATE or write.subresource:
            return
        match write.served.storage:
            case "pods":
                self._run_by_class(write, new)
            case "persistentvolumeclaims":
                spec = new.setdefault("spec", {})
                if _OLD_STORAGE_CLASS not in annotations_of(new):
                    self._default(spec, "storageClassName", _STORAGE_CLASSES, _STORAGE_DEFAULT)
            case "ingresses.networking.k8s.io":
                spec = new.setdefault("spec", {})
                if _OLD_INGRESS_CLASS not in annotations_of(new):
                    self._default(spec, "ingressClassName", _INGRESS_CLASSES, _INGRESS_DEFAULT)

    def check(self, write: Write) -> None:
        """Decide over what would be stored.

        Raises:
            Forbidden: a claim may not grow, or the user may not speak for a signer.
        """
        if write.subresource:
            return
        if write.served.storage == CLAIMS and write.operation == UPDATE:
            self._check_growth(write)
        elif write.served.storage == BUNDLES:
            self._check_attestation(write)

    def _default(self, spec: Object, field: str, storage: str, marks: tuple[str, ...]) -> None:
        """Give an object the newest of the classes that are marked as default."""
        if spec.get(field) is not None:
            return
        marked = []
        for row in self._store.rows(storage):
            found = row.decode()
            if any(annotations_of(found).get(mark) == "true" for mark in marks):
                marked.append(found)
        if marked:
            marked.sort(key=name_of)
            newest = max(marked, key=lambda each: str(meta(each).get("creationTimestamp") or ""))
            spec[field] = name_of(newest)

    # -- RuntimeClass ----------------------------------------------------------------------

    def _run_by_class(self, write: Write, pod: Object) -> None:
        spec = pod["spec"]
        name = spec.get("runtimeClassName")
        if not name:
            return
        row = self._store.latest(Key(_RUNTIME_CLASSES, "", name))
        if row is None:
            raise _rejected(write, f'RuntimeClass "{name}" not found')
        found = row.decode()
        _set_overhead(write, spec, (found.get("overhead") or {}).get("podFixed"))
        _set_scheduling(write, spec, found.get("scheduling") or {})

    # -- PersistentVolumeClaimResize ---------------------------------------------------------

    def _check_growth(self, write: Write) -> None:
        new, old = write.new, write.old
        assert new is not None
        assert old is not None
        before, after = _size(old), _size(new)
        if before is None or after is None or after <= before:
            return
        if (old.get("status") or {}).get("phase") != "Bound":
            why = "Only bound persistent volume claims can be expanded"
            raise refused(Forbidden, write.served, write.name, why)
        name = annotations_of(new).get(_OLD_STORAGE_CLASS) or new["spec"].get("storageClassName")
        row = self._store.latest(Key(_STORAGE_CLASSES, "", name)) if name else None
        if row is None or not row.decode().get("allowVolumeExpansion"):
            why = (
                "only dynamically provisioned pvc can be resized and the storageclass that"
                " provisions the pvc must support resize"
            )
            raise refused(Forbidden, write.served, write.name, why)

    # -- ClusterTrustBundleAttest ------------------------------------------------------------

    def _check_attestation(self, write: Write) -> None:
        new, old = write.new, write.old
        assert new is not None
        signer = (new.get("spec") or {}).get("signerName")
        if not signer or (old is not None and old.get("spec") == new.get("spec")):
            return
        group, domain = "certificates.k8s.io", signer.partition("/")[0]
        for name in (signer, f"{domain}/*"):
            wanted = Attributes("attest", group, "*", "signers", name=name)
            if self._rbac.allows(write.user, wanted):
                return
        why = f'user not permitted to attest for signerName "{signer}"'
        raise refused(Forbidden, write.served, write.name, why)


def _set_overhead(write: Write, spec: Object, fixed: Object | None) -> None:
    given = spec.get("overhead")
    if not fixed:
        if given:
            why = "Pod Overhead set without corresponding RuntimeClass defined Overhead"
            raise _rejected(write, why)
        return
    if given and not _same_amounts(given, fixed):
        why = "Pod's Overhead doesn't match RuntimeClass's defined Overhead"
        raise _rejected(write, why)
    spec["overhead"] = dict(fixed)


def _same_amounts(one: Object, other: Object) -> bool:
    return one.keys() == other.keys() and all(
        quantity.parse(one[name]) == quantity.parse(other[name]) for name in one
    )


def _set_scheduling(write: Write, spec: Object, scheduling: Object) -> None:
    for key, value in (scheduling.get("nodeSelector") or {}).items():
        selector = spec.setdefault("nodeSelector", {})
        if selector.setdefault(key, value) != value:
            raise _rejected(
                write,
                f"conflict: runtimeClass.scheduling.nodeSelector[{key}] = {value};"
                f" pod.spec.nodeSelector[{key}] = {selector[key]}",
            )
    for toleration in scheduling.get("tolerations") or ():
        if toleration not in spec.setdefault("tolerations", []):
            spec["tolerations"].append(dict(toleration))


def _rejected(write: Write, why: str) -> Exception:
    return refused(Forbidden, write.served, write.name, f"pod rejected: {why}")


def _size(claim: Object) -> Fraction | None:
    requests = ((claim.get("spec") or {}).get("resources") or {}).get("requests") or {}
    text = requests.get("storage")
    return quantity.parse(text) if text is not None else None
