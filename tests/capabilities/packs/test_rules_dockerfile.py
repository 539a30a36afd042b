import pytest

from underway.base.errors import BadRequest
from underway.capabilities.packs.model import MARKER, Listing, Plan
from underway.capabilities.packs.rules import detect


def of(text: str, port: int | None = None) -> Plan:
    files = {"Dockerfile": text, "requirements.txt": "flask", "app.py": ""}
    return detect(Listing(frozenset(files), files), port)


def test_a_dockerfile_wins():
    found = of("FROM debian\nEXPOSE 9000/udp 9001/tcp\n")
    assert (found.language, found.port, found.template) == ("dockerfile", 9001, "")


@pytest.mark.parametrize(
    ("text", "port"),
    [
        ("ARG P=7000\nFROM debian\nARG P\nENV PORT=$P\n", 7000),
        ("ARG P=7000\nFROM debian\nENV PORT=$P\n", 8080),
        ("FROM debian\nARG P=7000\nENV PORT=$P\nEXPOSE $PORT\n", 7000),
        ("FROM debian\nENV PORT=7000\n", 7000),
        ("FROM debian AS a\nEXPOSE 1000\nFROM a\n", 1000),
        ("FROM debian AS a\nEXPOSE 1000\nFROM debian\nCOPY --from=a /x /x\n", 8080),
        ("FROM docker.io/library/nginx:1.25\n", 80),
        ("FROM redis\n", 6379),
        ("FROM nginx\nEXPOSE 8081\n", 8081),
    ],
)
def test_the_port_is_the_last_stages(text, port):
    assert of(text).port == port


def test_the_port_asked_for_wins():
    assert of("FROM debian\nEXPOSE 1000\n", 2000).port == 2000


def test_a_dockerfile_of_ours_keeps_its_language():
    assert of(f"{MARKER}python\nFROM python:3.11-slim\nEXPOSE 5000\n").language == "python"
    found = of(f"{MARKER}go ./cmd/x\nFROM scratch\n")
    assert (found.language, found.go_package) == ("go", "./cmd/x")
    assert of(f"{MARKER}cobol\nFROM scratch\n").language == "dockerfile"


def test_an_error_names_the_line():
    with pytest.raises(BadRequest, match="Dockerfile:2"):
        of("FROM debian\nRUM echo\n")
