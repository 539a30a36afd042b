"""What a container runs: the pod's command and args over the image's ENTRYPOINT and CMD.

Source: Kubernetes documentation "Define a Command and Arguments for a Container".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from underway.api.objects import Object
from underway.base.errors import BadRequest
from underway.capabilities.node.rules.environment import expand


def image_environment(config: Mapping[str, Any]) -> dict[str, str]:
    """The variables an image's config sets."""
    pairs = (entry.partition("=") for entry in (config.get("config") or {}).get("Env") or ())
    return {name: value for name, _, value in pairs if name}


def arguments(
    container: Object, config: Mapping[str, Any], variables: Mapping[str, str]
) -> list[str]:
    """The process's argument vector.

    Raises:
        BadRequest: neither the pod nor the image says what to run.
    """
    image = config.get("config") or {}
    entrypoint, cmd = image.get("Entrypoint") or [], image.get("Cmd") or []
    command = [expand(word, variables) for word in container.get("command") or ()]
    args = [expand(word, variables) for word in container.get("args") or ()]
    if command:
        result = command + args
    elif args:
        result = [*entrypoint, *args]
    else:
        result = [*entrypoint, *cmd]
    if not result:
        raise BadRequest(
            f"container {container['name']}: no command specified",
            hint="the image has neither ENTRYPOINT nor CMD; set command in the pod",
        )
    return result


def working_directory(container: Object, config: Mapping[str, Any]) -> str:
    """The directory the process starts in."""
    return container.get("workingDir") or (config.get("config") or {}).get("WorkingDir") or "/"
