"""Ports that somebody may provide."""

from pathlib import Path

from underway.base.home import Home
from underway.kit import Capability
from underway.kit.registry import Ports


def test_a_port_is_found_where_somebody_provides_it(tmp_path: Path) -> None:
    provider = Capability(id="b", summary="", provides={"home": "underway.base.home:Home"})
    ports = Ports([provider], Home(tmp_path))
    assert ports.find("none") is None
    assert isinstance(ports.find("home"), Home)
