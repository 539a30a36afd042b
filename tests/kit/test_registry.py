from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from underway.base.errors import InternalError, NotFound
from underway.base.home import Home
from underway.kit import Capability, Error, Ready, registry


def names(*capabilities: Capability) -> list[str]:
    return [each.id for each in registry.in_order(capabilities)]


def test_providers_stand_before_those_who_require_them() -> None:
    user = Capability("a-user", "", requires=("port",))
    provider = Capability("z-provider", "", provides={"port": "m:a"})
    assert names(user, provider) == ["z-provider", "a-user"]


@pytest.mark.parametrize(("capabilities", "message"), [
    ([Capability("a", ""), Capability("a", "")], "two capabilities are called a"),
    ([Capability("a", "", requires=("p",))], "a requires the port p"),
    ([Capability("a", "", provides={"p": "m:x"}), Capability("b", "", provides={"p": "m:y"})],
     "a and b both provide the port p"),
    ([Capability("a", "", provides={"p": "m:x"}, requires=("q",)),
      Capability("b", "", provides={"q": "m:y"}, requires=("p",))], "need one another"),
])  # fmt: skip
def test_what_cannot_be_ordered_is_refused(capabilities, message: str) -> None:
    with pytest.raises(InternalError, match=message):
        registry.in_order(capabilities)


def test_ports_are_made_once_and_only_when_asked_for(tmp_path: Path) -> None:
    made = Capability("a", "", provides={"here": "underway.base.home:Home", "broken": "no.such:x"})
    ports = registry.Ports([made], Home(tmp_path))
    assert ports.get("here") is ports.get("here")
    with pytest.raises(InternalError, match=r"no\.such"):
        ports.get("broken")
    with pytest.raises(NotFound, match="missing"):
        ports.get("missing")


def test_a_probe_that_breaks_is_an_error() -> None:
    broken = Capability("a", "", probe="underway.kit.registry:Ports")
    assert isinstance(registry.probe(broken), Error)
    assert isinstance(registry.probe(Capability("a", "")), Ready)


def targets(capability: Capability) -> list[str]:
    named = [*capability.controllers, *capability.node_controllers, *capability.commands.values(),
             *capability.provides.values()]  # fmt: skip
    named += [route.app for route in capability.routes]
    named += [process.main for process in capability.processes]
    named += [
        target for page in capability.pages for target in (page.handler, page.summary) if target
    ]
    named += [each for each in (capability.probe, capability.teardown) if each]
    return named


@pytest.mark.parametrize("capability", registry.installed(), ids=lambda each: each.id)
def test_every_name_in_a_manifest_loads_from_its_own_package(capability: Capability) -> None:
    for target in targets(capability):
        assert callable(registry.load(target)) or inspect.isclass(registry.load(target))
        assert target.startswith(f"underway.capabilities.{capability.id}.")
    assert set(capability.command_summaries) == set(capability.commands)
