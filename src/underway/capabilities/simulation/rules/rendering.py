"""Templates of Stages: Go templates with kwok's functions, that give YAML.

Source: kwok documentation, "Go Template"; functions of Sprig, "Sprig Function Documentation".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import yaml

from underway.api.objects import Object
from underway.base.errors import Invalid
from underway.wire.gotemplate import Template
from underway.wire.gotemplate_literals import quoted
from underway.wire.gotemplate_sprig import SPRIG

TEMPLATES = 512  # kept in their parsed form

NODE_CONDITIONS = tuple(
    {"type": kind, "status": status, "reason": reason, "message": message}
    for kind, status, reason, message in (
        ("Ready", "True", "KubeletReady", "kubelet is posting ready status"),
        (
            "MemoryPressure",
            "False",
            "KubeletHasSufficientMemory",
            "kubelet has sufficient memory available",
        ),
        (
            "DiskPressure",
            "False",
            "KubeletHasNoDiskPressure",
            "kubelet has no disk pressure",
        ),
        (
            "PIDPressure",
            "False",
            "KubeletHasSufficientPID",
            "kubelet has sufficient PID available",
        ),
        ("NetworkUnavailable", "False", "RouteCreated", "RouteController created a route"),
    )
)


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """YAML whose times stay text, as JSON has them."""


_Loader.yaml_implicit_resolvers = {
    first: [each for each in resolvers if each[0] != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in _Loader.yaml_implicit_resolvers.items()
}


class Renderer:
    """Fills in templates; each is parsed once.

    Args:
        now: the time, as RFC 3339 text.
        functions: further functions: what is known of addresses.
    """

    def __init__(self, now: Callable[[], str], functions: Mapping[str, Callable[..., Any]]) -> None:
        started = now()
        self._functions: dict[str, Callable[..., Any]] = {
            **SPRIG,
            "Quote": quote,
            "Now": now,
            "StartTime": lambda: started,
            "YAML": as_yaml,
            "Version": lambda: "underway",
            "NodeConditions": lambda: NODE_CONDITIONS,
            **functions,
        }
        self._templates: dict[str, Template] = {}

    def __call__(self, text: str, obj: Object) -> Any:
        """The value that a template gives for an object.

        Raises:
            TemplateError: the text is no template, or cannot be filled in.
            Invalid: what it gives is no YAML.
        """
        template = self._templates.get(text)
        if template is None:
            if len(self._templates) >= TEMPLATES:
                self._templates.clear()
            template = self._templates[text] = Template("_", text.strip(), self._functions)
        filled = template.execute(obj)
        try:
            return yaml.load(filled, Loader=_Loader)  # noqa: S506  # a safe loader, see above
        except (yaml.YAMLError, ValueError) as error:
            raise Invalid(f"a Stage's template gives no YAML: {error}") from error


def quote(value: Any) -> str:
    """A value as a JSON string; what is no string, as the text of its JSON."""
    encoded = msgspec.json.encode(value).decode()
    return encoded if encoded.startswith('"') else quoted(encoded)


def as_yaml(value: Any, indent: int = 0) -> str:
    """A value as YAML in blocks, each line indented by so many steps of two spaces."""
    text = str(yaml.dump(value, default_flow_style=False, allow_unicode=True, sort_keys=True))
    text = text.removesuffix("...\n")
    if indent <= 0:
        return text
    pad = "  " * indent
    return f"\n{text}".replace("\n", f"\n{pad}")
