"""The Pod Security Standards: what a pod's spec violates of a level.

Source: Kubernetes "Pod Security Standards"; the wording is that of kubernetes
``pod-security-admission/policy``, which clients and people look for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from underway.api.objects import Object, annotations_of

PRIVILEGED, BASELINE, RESTRICTED = LEVELS = ("privileged", "baseline", "restricted")

_APPARMOR = "container.apparmor.security.beta.kubernetes.io/"
_DEFAULT_CAPABILITIES = frozenset(
    {
        "AUDIT_WRITE",
        "CHOWN",
        "DAC_OVERRIDE",
        "FOWNER",
        "FSETID",
        "KILL",
        "MKNOD",
        "NET_BIND_SERVICE",
        "SETFCAP",
        "SETGID",
        "SETPCAP",
        "SETUID",
        "SYS_CHROOT",
    }
)
_SELINUX_TYPES = (
    "",
    "container_t",
    "container_init_t",
    "container_kvm_t",
    "container_engine_t",
)
_SYSCTLS = frozenset(
    {
        "kernel.shm_rmid_forced",
        "net.ipv4.ip_local_port_range",
        "net.ipv4.ip_local_reserved_ports",
        "net.ipv4.ip_unprivileged_port_start",
        "net.ipv4.ping_group_range",
        "net.ipv4.tcp_fin_timeout",
        "net.ipv4.tcp_keepalive_intvl",
        "net.ipv4.tcp_keepalive_probes",
        "net.ipv4.tcp_keepalive_time",
        "net.ipv4.tcp_rmem",
        "net.ipv4.tcp_syncookies",
        "net.ipv4.tcp_wmem",
    }
)
_VOLUMES = frozenset(
    {
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "persistentVolumeClaim",
        "projected",
        "secret",
    }
)


@dataclass(frozen=True, slots=True)
class Violation:
    """What a pod breaks, and where."""

    reason: str
    detail: str

    def __str__(self) -> str:
        return f"{self.reason} ({self.detail})" if self.detail else self.reason


@dataclass(frozen=True, slots=True)
class _Pod:
    metadata: Object
    spec: Object

    @property
    def security(self) -> Object:
        return self.spec.get("securityContext") or {}

    @property
    def windows(self) -> bool:
        return (self.spec.get("os") or {}).get("name") == "windows"

    def containers(self) -> Iterator[tuple[str, Object]]:
        """Every container's name and security context."""
        for field in ("initContainers", "containers", "ephemeralContainers"):
            for each in self.spec.get(field) or ():
                yield each.get("name", ""), each.get("securityContext") or {}


Check = Callable[[_Pod], Iterator[Violation]]


def violations(level: str, pod: Object) -> list[Violation]:
    """What a pod, or a pod template, breaks of a level."""
    if level == PRIVILEGED:
        return []
    seen = _Pod({"metadata": pod.get("metadata") or {}}, pod.get("spec") or {})
    checks = sorted((_BASELINE | _BASELINE_ONLY).items()) if level == BASELINE else _ALL
    return [violation for _, check in checks for violation in check(seen)]


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)


def _containers(names: list[str]) -> str:
    return f"container{'s' if len(names) > 1 else ''} {_quoted(names)}"


def _setters(pod: bool, names: list[str]) -> str:
    return " and ".join([*(["pod"] if pod else []), *([_containers(names)] if names else [])])


def _where(pod: _Pod, broken: Callable[[Object], bool]) -> list[str]:
    return [name for name, security in pod.containers() if broken(security)]


# -- baseline ------------------------------------------------------------------------------


def _apparmor(pod: _Pod) -> Iterator[Violation]:
    def bad(security: Object) -> bool:
        return (security.get("appArmorProfile") or {}).get("type") == "Unconfined"

    found = []
    by_pod, names = bad(pod.security), _where(pod, bad)
    if by_pod or names:
        text = 'must not set AppArmor profile type to "Unconfined"'
        found.append(f"{_setters(by_pod, names)} {text}")
    for key, value in sorted(annotations_of(pod.metadata).items()):
        allowed = value in ("", "runtime/default") or value.startswith("localhost/")
        if key.startswith(_APPARMOR) and not allowed:
            found.append(f'annotation {key}="{value}"')
    if found:
        plural = "s" if len(found) > 1 else ""
        yield Violation(f"forbidden AppArmor profile{plural}", ", ".join(found))


def _added(pod: _Pod, allowed: frozenset[str]) -> str:
    """Which containers add capabilities beyond these, or empty."""
    names, capabilities = [], set()
    for name, security in pod.containers():
        more = {*((security.get("capabilities") or {}).get("add") or ())} - allowed
        if more:
            names.append(name)
            capabilities |= more
    if not names:
        return ""
    listed = _quoted(sorted(capabilities))
    return f"{_containers(names)} must not include {listed} in securityContext.capabilities.add"


def _capabilities_baseline(pod: _Pod) -> Iterator[Violation]:
    if detail := _added(pod, _DEFAULT_CAPABILITIES):
        yield Violation("non-default capabilities", detail)


def _host_namespaces(pod: _Pod) -> Iterator[Violation]:
    names = ("hostNetwork", "hostPID", "hostIPC")
    if found := [f"{name}=true" for name in names if pod.spec.get(name)]:
        yield Violation("host namespaces", ", ".join(found))


def _host_paths(pod: _Pod) -> Iterator[Violation]:
    names = [v.get("name", "") for v in pod.spec.get("volumes") or () if "hostPath" in v]
    if names:
        plural = "s" if len(names) > 1 else ""
        yield Violation("hostPath volumes", f"volume{plural} {_quoted(names)}")


def _host_ports(pod: _Pod) -> Iterator[Violation]:
    names: list[str] = []
    used: set[int] = set()
    for field in ("initContainers", "containers", "ephemeralContainers"):
        for each in pod.spec.get(field) or ():
            ports = {p["hostPort"] for p in each.get("ports") or () if p.get("hostPort")}
            if ports:
                names.append(each.get("name", ""))
                used |= ports
    if names:
        uses = "use" if len(names) > 1 else "uses"
        ports_word = "hostPorts" if len(used) > 1 else "hostPort"
        listed = ", ".join(sorted(str(port) for port in used))
        yield Violation("hostPort", f"{_containers(names)} {uses} {ports_word} {listed}")


def _privileged(pod: _Pod) -> Iterator[Violation]:
    if names := _where(pod, lambda security: bool(security.get("privileged"))):
        detail = f"{_containers(names)} must not set securityContext.privileged=true"
        yield Violation("privileged", detail)


def _proc_mount(pod: _Pod) -> Iterator[Violation]:
    names, kinds = [], set()
    for name, security in pod.containers():
        kind = security.get("procMount") or "Default"
        if kind != "Default":
            names.append(name)
            kinds.add(kind)
    if names:
        listed = _quoted(sorted(kinds))
        detail = f"{_containers(names)} must not set securityContext.procMount to {listed}"
        yield Violation("procMount", detail)


def _selinux(pod: _Pod) -> Iterator[Violation]:
    def bad(security: Object) -> bool:
        options = security.get("seLinuxOptions") or {}
        wrong = options.get("type", "") not in _SELINUX_TYPES
        return wrong or bool(options.get("user") or options.get("role"))

    by_pod, names = bad(pod.security), _where(pod, bad)
    if not by_pod and not names:
        return
    all_options = [
        each.get("seLinuxOptions") or {}
        for each in (pod.security, *(security for _, security in pod.containers()))
    ]
    types = sorted({o.get("type", "") for o in all_options} - {*_SELINUX_TYPES})
    texts = []
    if types:
        texts.append(f"type{'s' if len(types) > 1 else ''} {_quoted(types)}")
    texts += [
        f"{field} may not be set"
        for field in ("user", "role")
        if any(options.get(field) for options in all_options)
    ]
    detail = f"set forbidden securityContext.seLinuxOptions: {'; '.join(texts)}"
    yield Violation("seLinuxOptions", f"{_setters(by_pod, names)} {detail}")


def _unconfined(security: Object) -> bool:
    return (security.get("seccompProfile") or {}).get("type") == "Unconfined"


def _seccomp_baseline(pod: _Pod) -> Iterator[Violation]:
    by_pod, names = _unconfined(pod.security), _where(pod, _unconfined)
    if by_pod or names:
        text = 'must not set securityContext.seccompProfile.type to "Unconfined"'
        yield Violation("seccompProfile", f"{_setters(by_pod, names)} {text}")


def _sysctls(pod: _Pod) -> Iterator[Violation]:
    names = [each.get("name", "") for each in pod.security.get("sysctls") or ()]
    if forbidden := [name for name in names if name not in _SYSCTLS]:
        yield Violation("forbidden sysctls", ", ".join(forbidden))


def _host_process(pod: _Pod) -> Iterator[Violation]:
    def bad(security: Object) -> bool:
        return bool((security.get("windowsOptions") or {}).get("hostProcess"))

    by_pod, names = bad(pod.security), _where(pod, bad)
    if by_pod or names:
        text = "must not set securityContext.windowsOptions.hostProcess=true"
        yield Violation("hostProcess", f"{_setters(by_pod, names)} {text}")


# -- restricted ----------------------------------------------------------------------------


def _escalation(pod: _Pod) -> Iterator[Violation]:
    names = _where(pod, lambda security: security.get("allowPrivilegeEscalation") is not False)
    if names and not pod.windows:
        text = "must set securityContext.allowPrivilegeEscalation=false"
        yield Violation("allowPrivilegeEscalation != false", f"{_containers(names)} {text}")


def _capabilities_restricted(pod: _Pod) -> Iterator[Violation]:
    if pod.windows:
        return

    def keeps(security: Object) -> bool:
        return "ALL" not in ((security.get("capabilities") or {}).get("drop") or ())

    found = []
    if names := _where(pod, keeps):
        found.append(f'{_containers(names)} must set securityContext.capabilities.drop=["ALL"]')
    if detail := _added(pod, frozenset({"NET_BIND_SERVICE"})):
        found.append(detail)
    if found:
        yield Violation("unrestricted capabilities", "; ".join(found))


def _volume_types(pod: _Pod) -> Iterator[Violation]:
    names, kinds = [], set()
    for volume in pod.spec.get("volumes") or ():
        kind = next((field for field in volume if field != "name"), "")
        if kind not in _VOLUMES:
            names.append(volume.get("name", ""))
            kinds.add(kind or "unknown")
    if names:
        volumes = f"volume{'s' if len(names) > 1 else ''} {_quoted(names)}"
        uses = "use" if len(names) > 1 else "uses"
        types = f"type{'s' if len(kinds) > 1 else ''} {_quoted(sorted(kinds))}"
        yield Violation("restricted volume types", f"{volumes} {uses} restricted volume {types}")


def _non_root(pod: _Pod) -> Iterator[Violation]:
    by_pod = pod.security.get("runAsNonRoot")
    explicit = _where(pod, lambda security: security.get("runAsNonRoot") is False)
    implicit = []
    if not by_pod:
        implicit = _where(pod, lambda security: security.get("runAsNonRoot") is None)
    found = []
    # A pod's false does no harm where every container says true.
    pod_is_bad = by_pod is False and bool(implicit)
    if explicit or pod_is_bad:
        setters = _setters(pod_is_bad, explicit)
        found.append(f"{setters} must not set securityContext.runAsNonRoot=false")
    elif implicit:
        found.append(f"pod or {_containers(implicit)} must set securityContext.runAsNonRoot=true")
    if found:
        yield Violation("runAsNonRoot != true", "; ".join(found))


def _root_user(pod: _Pod) -> Iterator[Violation]:
    def bad(security: Object) -> bool:
        return security.get("runAsUser") == 0

    by_pod, names = bad(pod.security), _where(pod, bad)
    if by_pod or names:
        yield Violation("runAsUser=0", f"{_setters(by_pod, names)} must not set runAsUser=0")


def _seccomp_restricted(pod: _Pod) -> Iterator[Violation]:
    if pod.windows:
        return
    by_pod, explicit = _unconfined(pod.security), _where(pod, _unconfined)
    if by_pod or explicit:
        text = 'must not set securityContext.seccompProfile.type to "Unconfined"'
        yield Violation("seccompProfile", f"{_setters(by_pod, explicit)} {text}")
        return
    if pod.security.get("seccompProfile"):
        return
    if names := _where(pod, lambda security: not security.get("seccompProfile")):
        text = 'must set securityContext.seccompProfile.type to "RuntimeDefault" or "Localhost"'
        yield Violation("seccompProfile", f"pod or {_containers(names)} {text}")


# Upstream orders each level's checks by name; a restricted check that says more takes the place of
# the baseline one.
_BASELINE: dict[str, Check] = {
    "appArmorProfile": _apparmor,
    "hostNamespaces": _host_namespaces,
    "hostPorts": _host_ports,
    "privileged": _privileged,
    "procMount": _proc_mount,
    "seLinuxOptions": _selinux,
    "sysctls": _sysctls,
    "windowsHostProcess": _host_process,
}
_BASELINE_ONLY: dict[str, Check] = {
    "capabilities_baseline": _capabilities_baseline,
    "hostPathVolumes": _host_paths,
    "seccompProfile_baseline": _seccomp_baseline,
}
_RESTRICTED: dict[str, Check] = {
    "allowPrivilegeEscalation": _escalation,
    "capabilities_restricted": _capabilities_restricted,
    "restrictedVolumes": _volume_types,
    "runAsNonRoot": _non_root,
    "runAsUser": _root_user,
    "seccompProfile_restricted": _seccomp_restricted,
}
_ALL = [*sorted(_BASELINE.items()), *sorted(_RESTRICTED.items())]
