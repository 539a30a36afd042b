"""What the containers of a pod share: network, IPC namespace, /dev/shm, names. All calls block."""

from __future__ import annotations

import contextlib
import subprocess
from dataclasses import dataclass
from pathlib import Path

import msgspec

from underway.api.objects import Object, uid_of
from underway.base.errors import InternalError, ServiceUnavailable
from underway.base.files import write_atomic
from underway.capabilities.node.backend.layout import Layout
from underway.capabilities.node.backend.records import remove_tree
from underway.capabilities.node.model import containers_of
from underway.capabilities.node.rules import names, oci_spec
from underway.linux import mounts
from underway.linux.cgroups import Cgroups
from underway.linux.hostports import HostPort, HostPorts
from underway.linux.network import PodNetwork

_ANY = ("", "0.0.0.0", "::")  # noqa: S104  # compared, not bound
SHM_BYTES = 64 * 1024 * 1024
_RESOLV_CONF, _HOSTS = Path("/etc/resolv.conf"), Path("/etc/hosts")


@dataclass(frozen=True, slots=True)
class Shared:
    """A prepared sandbox: ``netns`` and ``ipcns`` are empty where the pod uses the host's."""

    ip: str
    hostname: str
    netns: str
    ipcns: str
    mounts: tuple[oci_spec.Mount, ...]


class Sandboxes:
    """The sandboxes of this node."""

    def __init__(
        self,
        layout: Layout,
        network: PodNetwork,
        host_ports: HostPorts,
        cgroups: Cgroups,
        *,
        node_name: str,
        node_ip: str,
        domain: str,
    ) -> None:
        self._layout = layout
        self._network = network
        self._host_ports = host_ports
        self._cgroups = cgroups
        self._node_name = node_name
        self._node_ip = node_ip
        self._domain = domain

    def prepare(self, pod: Object) -> Shared:
        """Make what is missing of a pod's sandbox; the same again changes nothing.

        Raises:
            ServiceUnavailable: no address is free.
            Conflict: a host port is taken; the message says by whom.
            InternalError: the kernel refused.
        """
        uid, spec = uid_of(pod), pod.get("spec") or {}
        base = self._layout.pod(uid)
        base.mkdir(parents=True, exist_ok=True)
        base.chmod(0o711)
        self.remember(pod)
        netns, ip = "", self._node_ip
        if not spec.get("hostNetwork"):
            attachment = self._network.attach(uid)
            netns, ip = str(attachment.netns), attachment.ip
            self._host_ports.set(uid, _host_ports(pod, ip))
        mounted = set(mounts.mounts_below(base))
        ipcns = "" if spec.get("hostIPC") else str(self._ipc(base / "ipc", mounted))
        shm = Path("/dev/shm") if spec.get("hostIPC") else self._shm(base / "shm", mounted)  # noqa: S108
        hostname = names.hostname(pod, self._node_name)
        files = {
            "hosts": names.hosts_file(pod, ip, self._node_name, self._domain, _read(_HOSTS)),
            "resolv.conf": names.resolv_conf(
                pod, self._network.gateway, self._domain, _read(_RESOLV_CONF)
            ),
            "hostname": f"{hostname}\n",
        }
        for name, text in files.items():
            # Written in place: a running container has the file itself mounted.
            path = base / name
            if _read(path) != text:
                path.write_text(text)
                path.chmod(0o644)
        binds = [oci_spec.Mount(str(base / name), f"/etc/{name}") for name in files]
        binds.append(oci_spec.Mount(str(shm), "/dev/shm"))  # noqa: S108
        return Shared(ip, hostname, netns, ipcns, tuple(binds))

    def remember(self, pod: Object) -> None:
        """Keep the pod as last seen, for when its object is gone after a restart."""
        base = self._layout.pod(uid_of(pod))
        kept = {k: v for k, v in pod.items() if k != "status"}
        data = msgspec.json.encode(kept)
        with contextlib.suppress(FileNotFoundError):
            if (base / "pod.json").read_bytes() == data:
                return
        write_atomic(base / "pod.json", data, mode=0o600, durable=False)

    def recall(self, uid: str) -> Object | None:
        """The pod that was remembered."""
        try:
            pod: Object = msgspec.json.decode((self._layout.pod(uid) / "pod.json").read_bytes())
        except (FileNotFoundError, msgspec.DecodeError):
            return None
        return pod

    def release(self, uid: str) -> None:
        """Give back address, namespaces and mounts; records and logs stay."""
        self._host_ports.set(uid, ())
        self._network.detach(uid)
        base = self._layout.pod(uid)
        for point in mounts.mounts_below(base):
            mounts.unmount(point)
        self._cgroups.remove(self._layout.pod_cgroup(uid))

    def remove(self, uid: str) -> None:
        """Release a pod and remove everything of it."""
        self._cgroups.kill(self._layout.pod_cgroup(uid))
        self.release(uid)
        remove_tree(self._layout.pod(uid))

    def attached(self) -> list[str]:
        """The uids of all pods that hold an address."""
        return list(self._network.attachments())

    def _ipc(self, path: Path, mounted: set[Path]) -> Path:
        if path not in mounted:
            path.touch()
            try:
                subprocess.run(
                    ["unshare", f"--ipc={path}", "true"],
                    check=True,
                    capture_output=True,
                    timeout=10,
                )
            except FileNotFoundError as error:
                raise ServiceUnavailable(
                    "unshare is not installed", hint="apt-get install util-linux"
                ) from error
            except subprocess.SubprocessError as error:
                raise InternalError(f"cannot make an IPC namespace: {error}") from error
        return path

    def _shm(self, path: Path, mounted: set[Path]) -> Path:
        if path not in mounted:
            path.mkdir(exist_ok=True)
            flags = mounts.MS_NOSUID | mounts.MS_NODEV | mounts.MS_NOEXEC
            mounts.mount("shm", path, "tmpfs", flags, f"mode=1777,size={SHM_BYTES}")
        return path


def _host_ports(pod: Object, ip: str) -> list[HostPort]:
    return [
        HostPort(
            (port.get("protocol") or "TCP").lower(),
            port.get("hostIP") if port.get("hostIP") not in (None, *_ANY) else "",
            int(port["hostPort"]),
            ip,
            int(port["containerPort"]),
        )
        for each in containers_of(pod)
        for port in each.spec.get("ports") or ()
        if port.get("hostPort")
    ]


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""
