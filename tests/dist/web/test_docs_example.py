"""The capability that docs/console.md shows, put together as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.dist.web.staging import run, stage

from underway.api.resources import CONFIGMAPS
from underway.base.errors import NotFound
from underway.kit import registry

PAGE = Path(__file__).parents[3] / "docs" / "console.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


def test_pages_of_a_capability_from_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest, web = blocks("python")
    (template,) = blocks("html")
    package = tmp_path / "lamps"
    (package / "templates").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "manifest.py").write_text(manifest)
    (package / "web.py").write_text(web)
    (package / "templates" / "lamps.html").write_text(template)
    monkeypatch.syspath_prepend(str(tmp_path))
    lamps = registry.load("lamps.manifest:CAPABILITY")
    others = registry.installed()
    monkeypatch.setattr(registry, "installed", lambda: [*others, lamps])

    async def scenario() -> None:
        async with stage(tmp_path / "home") as here:
            await here.admin.create(
                CONFIGMAPS, {"metadata": {"name": "desk", "namespace": "default"}}
            )
            browser = await here.browser(await here.token("admin", "cluster-admin"))
            assert '<a href="/lamps">Lamps</a>' in await browser.text("/")
            assert '<a href="/lamps/default/desk">desk</a>' in await browser.text("/lamps")
            assert (await browser.get("/lamps/default/desk")).status == 404
            assert (await browser.post("/lamps/default/desk")).status == 303
            assert "desk is out." in await browser.text("/lamps")
            with pytest.raises(NotFound):
                await here.admin.get(CONFIGMAPS, "desk", "default")

    run(scenario())
