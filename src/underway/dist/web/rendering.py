"""From a view to HTML: Jinja templates of the shell and of the capabilities' packages."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from importlib import resources
from typing import Any
from urllib.parse import quote, urlencode

import jinja2
import yaml
from markupsafe import Markup

from underway.base.clock import Clock
from underway.kit.console import View

PAGE = "console/page.html"
FRAGMENT = "console/fragment.html"
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


class Renderer:
    """Renders views, whole or only the part of them that is live."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._environment = jinja2.Environment(
            loader=jinja2.FunctionLoader(_source),
            autoescape=True,
            undefined=jinja2.ChainableUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        self._environment.filters.update(
            age=self._age, size=size, yaml=as_yaml, moment=moment, seconds=seconds
        )
        self._environment.globals.update(link=link, fragment=self._within)

    def page(self, view: View, chrome: Mapping[str, Any]) -> str:
        """The whole document; ``chrome`` is what surrounds every page."""
        return self._render(view, PAGE, chrome)

    def fragment(self, view: View, chrome: Mapping[str, Any]) -> str:
        """What stands in the page's live region."""
        return self._render(view, FRAGMENT, chrome)

    def _render(self, view: View, layout: str, chrome: Mapping[str, Any]) -> str:
        template = self._environment.get_template(view.template)
        values = {**view.values, **chrome, "title": view.title, "trail": view.trail}
        return template.render(values, layout=layout, live=bool(view.watches))

    @jinja2.pass_context
    def _within(self, context: jinja2.runtime.Context, view: View) -> Markup:
        """A view's live region inside another page."""
        return Markup(self.fragment(view, context.parent))  # noqa: S704  # rendered, so escaped

    def _age(self, since: object) -> str:
        then = parse_time(since)
        return "" if then is None else seconds((self._clock.now() - then).total_seconds())


def _source(name: str) -> tuple[str, str, None] | None:
    package, colon, file = name.partition(":")
    if not colon:
        package, file = "underway.dist.web", name
    try:
        text = resources.files(package).joinpath("templates", file).read_text(encoding="utf-8")
    except (FileNotFoundError, ModuleNotFoundError):
        return None
    return text, name, None


def link(*segments: object, **params: object) -> str:
    """A location of the console from unquoted segments and parameters; empty ones are left out."""
    path = "/" + "/".join(quote(str(segment), safe="") for segment in segments)
    query = urlencode({name: value for name, value in params.items() if value})
    return f"{path}?{query}" if query else path


def size(size_bytes: object) -> str:
    """Bytes for people: ``1.4 MiB``."""
    if not isinstance(size_bytes, int | float):
        return ""
    value = float(size_bytes)
    for unit in _UNITS[:-1]:
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} {_UNITS[-1]}"


def seconds(elapsed_s: object) -> str:
    """A span of time for people: ``0.4s``, ``12s``, ``5m``, ``3h``, ``9d``."""
    if not isinstance(elapsed_s, int | float):
        return ""
    span = max(0.0, float(elapsed_s))
    if 0 < span < 10 and span != int(span):
        return f"{span:.1f}s"
    for limit, divisor, unit in ((120, 1, "s"), (7200, 60, "m"), (172800, 3600, "h")):
        if span < limit:
            return f"{int(span // divisor)}{unit}"
    return f"{int(span // 86400)}d"


def parse_time(value: object) -> datetime | None:
    """A Kubernetes timestamp; None for what is none."""
    try:
        found = datetime.fromisoformat(str(value))
    except ValueError:
        return None
    return found if found.tzinfo else None


def moment(value: object) -> str:
    """A timestamp in full, UTC."""
    then = parse_time(value)
    return f"{then:%Y-%m-%d %H:%M:%S} UTC" if then else ""


def as_yaml(value: object) -> str:
    """An object as YAML, its fields in the order they came."""
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=120)
