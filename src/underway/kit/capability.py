"""The Capability manifest: data only, so that reading every manifest costs milliseconds.

Members that name code are ``"module:attr"`` strings, loaded when they are used.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Ready:
    """The capability can run here."""


@dataclass(frozen=True, slots=True)
class Skip:
    """The capability cannot run here, for a reason that is nobody's fault."""

    reason: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Error:
    """The capability should run here and cannot."""

    reason: str
    remedy: str = ""


Probe = Ready | Skip | Error


@dataclass(frozen=True, slots=True)
class Process:
    """A process of its own that the supervisor keeps running.

    ``main`` is ``"module:attr"`` of ``(Home) -> None``, which runs until SIGTERM.
    """

    name: str
    main: str


@dataclass(frozen=True, slots=True)
class Route:
    """An HTTP service hosted by the control-plane process on a port of its own.

    ``app`` is ``"module:attr"`` of ``(Home, Ports) -> Handler``. ``endpoint`` is its name in
    ``underway status``; ``port_setting`` the field of ``Settings`` that holds the port. A ``lazy``
    one is loaded with its first request: until then it takes no memory.
    """

    endpoint: str
    app: str
    port_setting: str
    lazy: bool = False


@dataclass(frozen=True, slots=True)
class Page:
    """A part of the web console: an entry of its navigation, and all that lies below its path.

    ``path`` is one word: the part answers at ``/PATH`` and below. ``title`` is the entry's text,
    ``section`` the heading it stands under. ``handler`` is ``"module:attr"`` of a
    ``kit.console.PageHandler``. With ``namespaced`` the picker of namespaces applies to it.
    ``summary``, another such handler, gives what the home page shows of this part.
    """

    path: str
    title: str
    handler: str
    section: str = "Platform"
    namespaced: bool = True
    summary: str = ""


@dataclass(frozen=True, slots=True)
class Rule:
    """What may be done to which resources: a PolicyRule in words.

    ``verbs``, ``groups`` and ``resources`` are lists of words; ``-`` is the core group. ``names``
    are resourceNames; none means all.
    """

    verbs: str
    groups: str
    resources: str
    names: str = ""


@dataclass(frozen=True, slots=True)
class Role:
    """The user that controllers write as, and what it may do besides reading everything.

    ``user`` is a service account of ``kube-system``, by upstream's name where upstream has one.
    """

    user: str
    rules: tuple[Rule, ...] = ()


@dataclass(frozen=True)
class Capability:
    """What one capability is made of.

    Attributes:
        id: the folder's name.
        summary: one line for ``underway capability list``.
        crds: resource files of CustomResourceDefinitions, as ``"package:file.yaml"``.
        controllers: ``"module:attr"`` of ``(Manager, Home) -> None``, which adds its controllers
            to the control plane's manager (see ``reconcile.Manager``).
        permissions: ``"module:attr"`` of a mapping from the last part of a controllers' module to
            its ``Role``; what is not in it has the one under the capability's id. Controllers
            without a Role read and write nothing but events.
        node_controllers: the same, run by the node process, as the node's user.
        processes: processes of its own.
        commands: command name -> ``"module:attr"`` of a click command.
        command_summaries: command name -> the line it has in ``underway --help``.
        routes: HTTP services.
        api_services: ``namespace/name`` of a Service that an APIService names -> ``"module:attr"``
            of ``(Manager) -> Handler``, which serves that API group within the control plane.
        pages: parts of the web console.
        provides: port name (see ``kit.ports``) -> ``"module:attr"`` of ``(Home) -> port``.
        requires: names of ports that must be there before this capability starts.
        teardown: ``"module:attr"`` of ``(Home) -> None``: after the processes have ended, take
            away what outlives them (containers, mounts, links, tables). Blocking, repeatable.
        probe: ``"module:attr"`` of ``() -> Probe``; always Ready where empty.
        embedded_only: whether a real cluster brings this itself.
    """

    id: str
    summary: str
    crds: tuple[str, ...] = ()
    controllers: tuple[str, ...] = ()
    permissions: str = ""
    node_controllers: tuple[str, ...] = ()
    processes: tuple[Process, ...] = ()
    commands: Mapping[str, str] = field(default_factory=dict)
    command_summaries: Mapping[str, str] = field(default_factory=dict)
    routes: tuple[Route, ...] = ()
    api_services: Mapping[str, str] = field(default_factory=dict)
    pages: tuple[Page, ...] = ()
    provides: Mapping[str, str] = field(default_factory=dict)
    requires: tuple[str, ...] = ()
    teardown: str = ""
    probe: str = ""
    embedded_only: bool = False
