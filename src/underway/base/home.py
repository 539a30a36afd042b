"""The one directory that holds a platform's state, and its settings."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from underway.base.errors import BadRequest
from underway.base.files import write_atomic

DEFAULT_HOME = Path("/var/lib/underway")


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What was chosen when the platform first started. Ports are TCP on ``bind_address``."""

    bind_address: str = "127.0.0.1"
    api_port: int = 6443
    registry_port: int = 5000
    console_port: int = 8080
    scanner_port: int = 6060
    notary_port: int = 4443
    signing_port: int = 4444
    grafeas_port: int = 8083
    node_port: int = 10250
    node_name: str = "underway"
    pod_cidr: str = "10.244.0.0/24"
    service_cidr: str = "10.96.0.0/16"
    cluster_domain: str = "cluster.local"


@dataclass(frozen=True)
class Home:
    """Where things lie below one state directory. Nothing here touches the disk but load/save."""

    root: Path
    id: str = field(init=False, default="")

    def __post_init__(self) -> None:
        # Six characters that tell this platform's links, tables and cgroups from another's.
        digest = hashlib.sha256(str(self.root).encode()).hexdigest()
        object.__setattr__(self, "id", digest[:6])

    @classmethod
    def from_environment(cls) -> Home:
        """The home that ``UNDERWAY_HOME`` names, or the default."""
        return cls(Path(os.environ.get("UNDERWAY_HOME") or DEFAULT_HOME).absolute())

    @property
    def settings_file(self) -> Path:
        """The settings, as JSON."""
        return self.root / "settings.json"

    @property
    def pki(self) -> Path:
        """Certificates and keys."""
        return self.root / "pki"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self.root / "kubeconfig"

    @property
    def database(self) -> Path:
        """The cluster's objects."""
        return self.root / "store" / "cluster.db"

    @property
    def snapshots(self) -> Path:
        """Saved states of the whole cluster."""
        return self.root / "snapshots"

    @property
    def registry(self) -> Path:
        """The built-in registry's blobs and repositories."""
        return self.root / "registry"

    @property
    def registry_auth(self) -> Path:
        """Credentials for the built-in registry, as a containers ``auth.json``."""
        return self.root / "registry" / "auth.json"

    @property
    def layers(self) -> Path:
        """Unpacked image layers, shared by builds and pods."""
        return self.root / "layers"

    @property
    def builds(self) -> Path:
        """The builder's cache."""
        return self.root / "builds"

    @property
    def node(self) -> Path:
        """Pods, containers and their volumes and logs."""
        return self.root / "node"

    @property
    def scan(self) -> Path:
        """Indexed layers and advisories."""
        return self.root / "scan"

    @property
    def signing(self) -> Path:
        """Signing keys, trusted keys, the transparency log, TUF and Notary repositories."""
        return self.root / "signing"

    @property
    def provenance(self) -> Path:
        """Notes about images (Grafeas), in-toto links and the key they are signed with."""
        return self.root / "provenance"

    @property
    def volumes(self) -> Path:
        """The directories that are PersistentVolumes."""
        return self.root / "volumes"

    @property
    def run(self) -> Path:
        """Sockets, locks and pid files; worthless after a reboot."""
        return self.root / "run"

    @property
    def logs(self) -> Path:
        """Log files of the platform's own processes."""
        return self.root / "logs"

    def load_settings(self) -> Settings:
        """The saved settings, or the defaults where none were saved.

        Raises:
            BadRequest: the file is not what this version writes.
        """
        try:
            data = self.settings_file.read_bytes()
        except FileNotFoundError:
            return Settings()
        try:
            return msgspec.json.decode(data, type=Settings)
        except msgspec.MsgspecError as error:
            raise BadRequest(f"{self.settings_file}: {error}") from error

    def save_settings(self, settings: Settings) -> None:
        """Keep the settings."""
        self.root.mkdir(parents=True, exist_ok=True)
        data = msgspec.json.format(msgspec.json.encode(settings), indent=2)
        write_atomic(self.settings_file, data + b"\n", mode=0o600)
