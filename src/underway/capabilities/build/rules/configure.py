"""Instructions that change an image's config and no file.

Source: OCI image-spec ``config.md``; Docker's extensions of it (Healthcheck, OnBuild, Shell).
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable
from typing import Any

from underway.capabilities.build.model import StageState
from underway.capabilities.build.rules.stages import word
from underway.wire import dockerfile_instructions as ins
from underway.wire.dockerfile_words import split


def configure(dockerfile: ins.Dockerfile, step: ins.Step, state: StageState) -> bool:
    """Apply a step that touches no file; whether it was one.

    Raises:
        BadRequest: naming file and line, when an argument comes to nonsense.
    """
    apply = _APPLY.get(type(step))
    if apply is None:
        return False
    apply(dockerfile, step, state)
    return True


def _env(dockerfile: ins.Dockerfile, step: ins.Env, state: StageState) -> None:
    environment = state.image.environment
    # All values see the variables as they were before this instruction.
    values = [
        (word(dockerfile, step, n, state.scope), word(dockerfile, step, v, state.scope))
        for n, v in step.pairs
    ]
    environment |= dict(values)
    state.scope |= dict(values)
    state.image.config["Env"] = [f"{name}={value}" for name, value in environment.items()]


def _label(dockerfile: ins.Dockerfile, step: ins.Label, state: StageState) -> None:
    labels = dict(state.image.config.get("Labels") or {})
    for name, value in step.pairs:
        labels[word(dockerfile, step, name, state.scope)] = word(
            dockerfile, step, value, state.scope
        )
    state.image.config["Labels"] = labels


def workdir(dockerfile: ins.Dockerfile, step: ins.Workdir, state: StageState) -> str:
    """The absolute directory a ``WORKDIR`` means."""
    path = word(dockerfile, step, step.path, state.scope)
    return posixpath.normpath(posixpath.join("/", state.workdir, path))


def _user(dockerfile: ins.Dockerfile, step: ins.User, state: StageState) -> None:
    state.image.config["User"] = word(dockerfile, step, step.user, state.scope)


def _expose(dockerfile: ins.Dockerfile, step: ins.Expose, state: StageState) -> None:
    ports = dict(state.image.config.get("ExposedPorts") or {})
    for text in step.ports:
        for each in split(word(dockerfile, step, text, state.scope)):
            for port in _ports(dockerfile, step, each):
                ports[port] = {}
    state.image.config["ExposedPorts"] = ports


def _ports(dockerfile: ins.Dockerfile, step: ins.Expose, text: str) -> list[str]:
    match = re.fullmatch(r"(\d{1,5})(?:-(\d{1,5}))?(?:/(tcp|udp|sctp))?", text.lower())
    first = int(match[1]) if match else 0
    last = int(match[2] or first) if match else 0
    if not match or not 1 <= first <= last <= 65535:
        raise dockerfile.error(step.line, f"EXPOSE: {text!r} is no port", "write EXPOSE 8080/tcp")
    return [f"{port}/{match[3] or 'tcp'}" for port in range(first, last + 1)]


def argv_of(command: ins.Command, state: StageState) -> list[str]:
    """The argument vector of a command, with the shell where it is in shell form."""
    return [*state.shell, *command.argv] if command.shell else list(command.argv)


def _entrypoint(_dockerfile: ins.Dockerfile, step: ins.Entrypoint, state: StageState) -> None:
    state.image.config["Entrypoint"] = argv_of(step.command, state)
    if not state.cmd_set:
        state.image.config.pop("Cmd", None)  # the base's CMD were arguments of its ENTRYPOINT


def _cmd(_dockerfile: ins.Dockerfile, step: ins.Cmd, state: StageState) -> None:
    state.image.config["Cmd"] = argv_of(step.command, state)
    state.cmd_set = True


def _shell(_dockerfile: ins.Dockerfile, step: ins.Shell, state: StageState) -> None:
    state.image.config["Shell"] = list(step.argv)


def _volume(dockerfile: ins.Dockerfile, step: ins.Volume, state: StageState) -> None:
    volumes = dict(state.image.config.get("Volumes") or {})
    for path in step.paths:
        volumes[word(dockerfile, step, path, state.scope)] = {}
    state.image.config["Volumes"] = volumes


def _healthcheck(_dockerfile: ins.Dockerfile, step: ins.Healthcheck, state: StageState) -> None:
    if step.command is None:
        state.image.config["Healthcheck"] = {"Test": ["NONE"]}
        return
    kind = "CMD-SHELL" if step.command.shell else "CMD"
    check: dict[str, Any] = {"Test": [kind, *step.command.argv]}
    values = {
        "Interval": step.interval_ns,
        "Timeout": step.timeout_ns,
        "StartPeriod": step.start_period_ns,
        "StartInterval": step.start_interval_ns,
        "Retries": step.retries,
    }
    state.image.config["Healthcheck"] = check | {k: v for k, v in values.items() if v}


def _stopsignal(dockerfile: ins.Dockerfile, step: ins.Stopsignal, state: StageState) -> None:
    state.image.config["StopSignal"] = word(dockerfile, step, step.signal, state.scope)


def _onbuild(_dockerfile: ins.Dockerfile, step: ins.Onbuild, state: StageState) -> None:
    state.image.config.setdefault("OnBuild", []).append(step.trigger)


def _maintainer(_dockerfile: ins.Dockerfile, _step: ins.Maintainer, _state: StageState) -> None:
    """The author has no place in the OCI config section; the history line keeps the name."""


_APPLY: dict[type, Callable[[ins.Dockerfile, Any, StageState], None]] = {
    ins.Env: _env,
    ins.Label: _label,
    ins.User: _user,
    ins.Expose: _expose,
    ins.Entrypoint: _entrypoint,
    ins.Cmd: _cmd,
    ins.Shell: _shell,
    ins.Volume: _volume,
    ins.Healthcheck: _healthcheck,
    ins.Stopsignal: _stopsignal,
    ins.Onbuild: _onbuild,
    ins.Maintainer: _maintainer,
}
