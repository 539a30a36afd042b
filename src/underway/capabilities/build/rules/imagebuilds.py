"""What an ImageBuild object asks for, as a command, and what its status says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from underway.api.objects import Object
from underway.api.resources import Resource
from underway.base.errors import BadRequest

IMAGEBUILDS = Resource(
    "build.underway.dev", "v1alpha1", "imagebuilds", "ImageBuild",
    singular="imagebuild", short_names=("ib",), subresources=("status",),
)  # fmt: skip
LOG_LINES = 40
LOG_LINE_CHARS = 400


def is_finished(found: Object) -> bool:
    """Whether this generation of the object was built, or failed to be."""
    status = found.get("status") or {}
    same = status.get("observedGeneration") == found["metadata"].get("generation")
    return same and status.get("phase") in ("Succeeded", "Failed")


def git_url(spec: Object) -> str:
    """``URL#REF:DIRECTORY`` of a git source.

    Raises:
        BadRequest: it is not on the network: the machine's own files are not for the asking.
    """
    git = spec["source"]["git"]
    url = str(git["url"])
    if not url.startswith(("https://", "http://", "ssh://")) or "#" in url:
        raise BadRequest(f"spec.source.git.url: {url} is no https, http or ssh URL")
    path = _inside(git.get("path", ""), "spec.source.git.path")
    return f"{url}#{git.get('ref', '')}:{path}"


def arguments(spec: Object, context: str, metadata_file: str) -> list[str]:
    """The arguments of ``underway build`` for a context directory.

    Raises:
        BadRequest: a path leads out of the context, or a value would be read as an option.
    """
    file = _inside(spec.get("dockerfile") or "Dockerfile", "spec.dockerfile")
    argv = ["--progress", "plain", "--push", f"--metadata-file={metadata_file}"]
    argv.append(f"--file={context}/{file}")
    argv += [f"--tag={tag}" for tag in spec["tags"]]
    argv += [f"--platform={each}" for each in spec.get("platforms") or []]
    for name, value in sorted((spec.get("buildArgs") or {}).items()):
        if "=" in name:
            raise BadRequest(f"spec.buildArgs: {name!r} is no name")
        argv.append(f"--build-arg={name}={value}")
    if spec.get("target"):
        argv.append(f"--target={spec['target']}")
    return [*argv, "--", context]


def running(found: Object, now: str) -> dict[str, Any]:
    """The status of a build that begins."""
    return {
        "phase": "Running",
        "observedGeneration": found["metadata"].get("generation"),
        "startedAt": now,
        "conditions": [_condition("Unknown", "Running", "", now)],
    }


def finished(
    found: Object, digest: str, message: str, log: Sequence[str], now: str
) -> dict[str, Any]:
    """The status of a build that has ended; without a digest it failed."""
    started = (found.get("status") or {}).get("startedAt")
    return {
        "phase": "Succeeded" if digest else "Failed",
        "observedGeneration": found["metadata"].get("generation"),
        "digest": digest or None,
        "message": message or None,
        "log": [line[:LOG_LINE_CHARS] for line in log][-LOG_LINES:],
        "startedAt": started,
        "finishedAt": now,
        "conditions": [
            _condition(
                "True" if digest else "False",
                "Built" if digest else "BuildFailed",
                message,
                now,
            )
        ],
    }


def _condition(status: str, reason: str, message: str, now: str) -> dict[str, Any]:
    return {
        "type": "Succeeded",
        "status": status,
        "reason": reason,
        "message": message,
        "lastTransitionTime": now,
    }


def _inside(path: str, field: str) -> str:
    if path.startswith("/") or ".." in path.split("/"):
        raise BadRequest(f"{field}: {path} leads out of the context")
    return path
