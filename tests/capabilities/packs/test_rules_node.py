import json

import pytest

from underway.base.errors import BadRequest
from underway.capabilities.packs.model import Listing, Plan
from underway.capabilities.packs.rules import detect


def of(package: object, port: int | None = None, /, **texts: str) -> Plan:
    files = {"package.json": json.dumps(package) if not isinstance(package, str) else package}
    files |= {name.replace("_js", ".js").replace("_json", ".json"): t for name, t in texts.items()}
    return detect(Listing(frozenset(files), files), port)


def test_a_plain_start_script_is_run_without_npm():
    found = of({"scripts": {"start": "node server.js"}}, server_js="app.listen(4000)")
    assert found.command == ("node", "server.js")
    assert found.port == 4000


def test_a_start_script_that_needs_a_shell_is_run_by_npm():
    assert of({"scripts": {"start": "NODE_ENV=x node ."}}).command == ("npm", "start")


def test_main_and_usual_files():
    assert of({"main": "index"}, index_js="").command == ("node", "index.js")
    assert of({}, server_js="").command == ("node", "server.js")


def test_the_port_of_the_environment_is_a_habit():
    text = "const port = process.env.PORT || 5555; app.listen(port)"
    assert of({}, server_js=text).port == 3000
    assert of({}, 8088, server_js=text).port == 8088


def test_installation_follows_lock_and_build():
    assert of({}, server_js="").values["install"] == ""
    package = {"dependencies": {"express": "4"}, "main": "index.js"}
    assert (
        of(package, index_js="").values["install"] == "npm install --omit=dev --no-audit --no-fund"
    )
    locked = of(package, index_js="", **{"package-lock_json": "{}"})
    assert locked.values["install"] == "npm ci --omit=dev --no-audit --no-fund"
    assert locked.values["early"] == ["package.json", "package-lock.json"]
    building = {**package, "scripts": {"build": "tsc", "start": "node dist/x.js"}}
    assert of(building).values["install"] == "npm install --no-audit --no-fund"


def test_a_site_that_is_only_built_is_served_by_nginx():
    found = of({"scripts": {"build": "vite build"}, "devDependencies": {"vite": "5"}})
    assert found.template == "node-site.Dockerfile"
    assert (found.port, found.values["output"]) == (80, "dist")


def test_nothing_to_start_says_what_helps():
    with pytest.raises(BadRequest, match="no start script") as caught:
        of({"name": "x"})
    assert "start" in caught.value.hint


def test_a_broken_package_is_named():
    with pytest.raises(BadRequest, match=r"package\.json is no JSON object"):
        of("{")
