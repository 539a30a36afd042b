"""Rules of the kinds that describe the cluster: what their schema requires, and what stays.

Source: Kubernetes API reference; the ``validation`` packages below ``pkg/apis``.
"""

from __future__ import annotations

from collections.abc import Callable

from underway.api import names
from underway.api import schema as schemas
from underway.api.kinds.causes import unchanged
from underway.api.objects import Object
from underway.base.errors import Cause

# (group, kind) -> the fields of the object that an update may not change.
_FIXED: dict[tuple[str, str], tuple[str, ...]] = {
    ("certificates.k8s.io", "PodCertificateRequest"): ("spec",),
    ("networking.k8s.io", "IPAddress"): ("spec",),
    ("resource.k8s.io", "ResourceClaim"): ("spec",),
    ("resource.k8s.io", "ResourceClaimTemplate"): ("spec",),
    ("storage.k8s.io", "CSIStorageCapacity"): ("nodeTopology", "storageClassName"),
    ("storage.k8s.io", "VolumeAttachment"): ("spec",),
    ("storage.k8s.io", "VolumeAttributesClass"): ("driverName", "parameters"),
}
KINDS = frozenset(
    {
        *_FIXED,
        ("", "PodTemplate"),
        ("admissionregistration.k8s.io", "MutatingAdmissionPolicy"),
        ("admissionregistration.k8s.io", "MutatingAdmissionPolicyBinding"),
        ("admissionregistration.k8s.io", "ValidatingAdmissionPolicy"),
        ("admissionregistration.k8s.io", "ValidatingAdmissionPolicyBinding"),
        ("apiregistration.k8s.io", "APIService"),
        ("certificates.k8s.io", "CertificateSigningRequest"),
        ("certificates.k8s.io", "ClusterTrustBundle"),
        ("flowcontrol.apiserver.k8s.io", "FlowSchema"),
        ("flowcontrol.apiserver.k8s.io", "PriorityLevelConfiguration"),
        ("networking.k8s.io", "ServiceCIDR"),
        ("resource.k8s.io", "DeviceClass"),
        ("resource.k8s.io", "DeviceTaintRule"),
        ("resource.k8s.io", "ResourceSlice"),
        ("storage.k8s.io", "CSIDriver"),
        ("storage.k8s.io", "CSINode"),
        ("storagemigration.k8s.io", "StorageVersionMigration"),
    }
)
NAMES: dict[tuple[str, str], Callable[[str], list[str]]] = {
    ("apiregistration.k8s.io", "APIService"): names.path_segment,
    ("certificates.k8s.io", "CertificateSigningRequest"): names.path_segment,
    ("certificates.k8s.io", "ClusterTrustBundle"): names.path_segment,
    ("networking.k8s.io", "IPAddress"): names.path_segment,
}


def check_required(obj: Object) -> list[Cause]:
    """The fields of what is wanted that are missing from an object, by its kind's schema."""
    kind = schemas.builtin(str(obj.get("apiVersion")), str(obj.get("kind")))
    if kind is None:
        return []
    missing = [c for c in schemas.validate(kind, obj) if c.reason == "FieldValueRequired"]
    return [cause for cause in missing if not cause.field.startswith("status")]


def keep_fixed(kind: tuple[str, str], new: Object, old: Object) -> list[Cause]:
    """The fields that were changed though they stay."""
    found: list[Cause] = []
    for field in _FIXED.get(kind, ()):
        found += unchanged(field, new.get(field), old.get(field))
    return found
