"""The web console of a real platform, in a real browser: headless Chromium."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests import peers
from tests.platform.conftest import Platform

pytestmark = [
    pytest.mark.platform,
    pytest.mark.privileged,
    pytest.mark.peer,
    pytest.mark.timeout(120),
]

WAIT_S = 25
PAGE = (
    "FROM busybox\nRUN mkdir /www && echo hello > /www/index.html\n"
    'CMD ["sh", "-c", "n=0; (while sleep 0.2; do n=$((n+1)); echo line $n; done) &'
    ' exec httpd -f -p 8080 -h /www"]\n'
)


class Visitor:
    """One browser: what a person does with it, by what a person sees."""

    def __init__(self, driver: Any, base: str) -> None:
        self.driver = driver
        self.base = base

    def open(self, path: str) -> None:
        self.driver.get(self.base + path)

    @property
    def path(self) -> str:
        url: str = self.driver.current_url
        return url.removeprefix(self.base)

    def text(self, selector: str = "body") -> str:
        # A live region is replaced while one looks.
        from selenium.common.exceptions import NoSuchElementException as Gone
        from selenium.common.exceptions import StaleElementReferenceException as Stale
        from selenium.webdriver.common.by import By

        with contextlib.suppress(Gone, Stale):
            found: str = self.driver.find_element(By.CSS_SELECTOR, selector).text
            return found
        return ""

    def until(self, text: str, selector: str = "body") -> None:
        from selenium.common.exceptions import TimeoutException
        from selenium.webdriver.support.ui import WebDriverWait

        try:
            WebDriverWait(self.driver, WAIT_S, 0.05).until(lambda _: text in self.text(selector))
        except TimeoutException:
            pytest.fail(f"no {text!r} in {selector} of {self.path}: {self.text()[:3000]}")

    def until_path(self, path: str) -> None:
        from selenium.webdriver.support.ui import WebDriverWait

        WebDriverWait(self.driver, WAIT_S, 0.05).until(
            lambda _: self.path == path, f"wanted {path}; at {self.path}"
        )

    def click(self, text: str) -> None:
        """Click the link or the button that says this."""
        from selenium.common.exceptions import NoSuchElementException as Absent
        from selenium.common.exceptions import StaleElementReferenceException as Stale
        from selenium.webdriver.common.by import By
        from selenium.webdriver.support.ui import WebDriverWait

        quoted = json.dumps(text)
        where = f"//a[normalize-space()={quoted}] | //button[normalize-space()={quoted}]"

        def click(driver: Any) -> bool:
            driver.find_element(By.XPATH, where).click()
            return True

        WebDriverWait(self.driver, WAIT_S, 0.05, [Absent, Stale]).until(click)

    def fill(self, label: str, text: str) -> None:
        """Type into the field with this label."""
        from selenium.webdriver.common.by import By

        found = self.driver.find_element(
            By.XPATH, f"//label[normalize-space()={json.dumps(label)}]"
        )
        field = self.driver.find_element(By.ID, found.get_attribute("for"))
        field.clear()
        field.send_keys(text)

    def complaints(self) -> list[str]:
        """What the browser's console says went wrong, such as what the policy blocked."""
        return [
            entry["message"]
            for entry in self.driver.get_log("browser")
            if entry["level"] == "SEVERE" and "status of 40" not in entry["message"]
        ]


@contextlib.contextmanager
def chromium(profile: Path, *arguments: str) -> Iterator[Any]:
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not program or not driver:
        if os.environ.get("CI"):
            pytest.fail("the packages chromium and chromium-driver are missing")
        pytest.skip("the packages chromium and chromium-driver are missing")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = program
    options.accept_insecure_certs = True
    for argument in (
        "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
        "--no-proxy-server", "--no-first-run", "--disable-background-networking",
        "--disable-extensions", "--window-size=1280,900", f"--user-data-dir={profile}",
        *arguments,
    ):  # fmt: skip
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    opened = webdriver.Chrome(options, Service(driver))
    try:
        yield opened
    finally:
        opened.quit()


@pytest.fixture(scope="module")
def driver(platform: Platform, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with chromium(tmp_path_factory.mktemp("chromium")) as opened:
        yield opened


@pytest.fixture(scope="module")
def shipped(platform: Platform, tmp_path_factory: pytest.TempPathFactory) -> Any:
    source = tmp_path_factory.mktemp("source")
    (source / "Dockerfile").write_text(PAGE)
    return platform.ship(source, "--name", "seen", "--port", "8080")


def lasting_pod(platform: Platform) -> str:
    """The shipped application's pod that is not on its way out."""
    platform.kubectl("rollout", "status", "deployment/seen", "--timeout=60s")
    pods = platform.get("pods", "-l", "app.kubernetes.io/name=seen")["items"]
    (name,) = (
        pod["metadata"]["name"] for pod in pods if "deletionTimestamp" not in pod["metadata"]
    )
    return str(name)


def base(platform: Platform) -> str:
    url: str = platform.status()["endpoints"]["console"]
    return url


@pytest.fixture
def visitor(platform: Platform, driver: Any) -> Visitor:
    """A browser on the home page, logged in as the platform's administrator."""
    there = Visitor(driver, base(platform))
    there.open("/")
    if there.path != "/":
        driver.get(platform.underway("console", "--print").stdout.strip())
    driver.get_log("browser")
    return there


def test_one_time_address_opens_the_home_page(platform: Platform, visitor: Visitor) -> None:
    assert visitor.path == "/"
    visitor.until("Healthy")
    visitor.until("Latest warnings")
    visitor.until("Latest passages")
    rows = json.loads(platform.underway("capability", "list", "-o", "json").stdout)
    assert all(row["id"] in visitor.text() for row in rows)
    (cookie,) = visitor.driver.get_cookies()
    assert (cookie["httpOnly"], cookie["secure"], cookie["sameSite"]) == (True, True, "Strict")
    for link in ("Passages", "Workloads", "Pods", "Nodes", "Events", "All resources", "Services"):
        visitor.click(link)
        assert visitor.text("h1"), link
        assert visitor.text("nav a[aria-current=page]") == link
        assert visitor.complaints() == []
    ticket = platform.underway("console", "--print").stdout.strip()
    visitor.driver.get(ticket)
    visitor.driver.get(ticket)
    visitor.until("used already")


def test_passage_of_what_was_shipped(visitor: Visitor, shipped: Any) -> None:
    name = shipped["passage"]["metadata"]["name"]
    visitor.click("Passages")
    visitor.until(name, "#live")
    visitor.click(name)
    visitor.until("Succeeded", "#phase")
    steps = visitor.text("ol.steps")
    assert all(step["name"] in steps for step in shipped["passage"]["status"]["steps"])
    assert shipped["passage"]["status"]["image"]["digest"] in visitor.text("#live")
    visitor.click("deployment/seen")
    visitor.until("Rolled out: 1 of 1", "#rollout")


def test_image_of_what_was_shipped(visitor: Visitor, shipped: Any) -> None:
    digest = shipped["passage"]["status"]["image"]["digest"]
    visitor.click("Registry")
    visitor.click("default")
    visitor.until("create artifact")
    visitor.click("seen")
    visitor.click(digest[:19])
    visitor.until("Layers", "#live")
    assert digest in visitor.text("#live")
    assert "linux/amd64" in visitor.text("#live")


def test_pod_appears_live_and_its_log_is_followed(
    platform: Platform, visitor: Visitor, shipped: Any
) -> None:
    visitor.open("/workloads/deployments/default/seen")
    visitor.until("Rolled out: 1 of 1", "#rollout")
    visitor.driver.execute_script("window.same = true")
    platform.kubectl("scale", "deployment/seen", "--replicas=2")
    visitor.until("Rolled out: 2 of 2", "#rollout")
    for pod in platform.get("pods", "-l", "app.kubernetes.io/name=seen")["items"]:
        if "deletionTimestamp" not in pod["metadata"]:
            visitor.until(pod["metadata"]["name"], "#live")
    # The page was not loaded again to show that.
    assert visitor.driver.execute_script("return window.same") is True
    platform.kubectl("scale", "deployment/seen", "--replicas=1")
    visitor.until("Rolled out: 1 of 1", "#rollout")
    name = lasting_pod(platform)
    visitor.open(f"/pods/default/{name}")
    visitor.until("Running", "#state")
    visitor.click("Log")
    visitor.until("line 3", "#log")
    lines = [int(n) for n in re.findall(r"line (\d+)", visitor.text("#log"))]
    assert lines == list(range(lines[0], lines[-1] + 1)), "no line is missing or repeated"
    visitor.until(f"line {lines[-1] + 5}", "#log")
    assert visitor.complaints() == []


def test_deployment_is_scaled_and_restarted_with_the_keyboard(
    platform: Platform, visitor: Visitor, shipped: Any
) -> None:
    from selenium.webdriver.common.keys import Keys

    visitor.open("/workloads/deployments/default/seen")
    visitor.fill("Replicas", "2" + Keys.ENTER)
    visitor.until("Scaled to 2.", "[role=status]")
    visitor.until("Rolled out: 2 of 2", "#rollout")
    assert platform.get("deployment", "seen")["spec"]["replicas"] == 2
    visitor.click("Restart")
    visitor.until("Restarting", "[role=status]")
    visitor.fill("Replicas", "1" + Keys.ENTER)
    visitor.until("Rolled out: 1 of 1", "#rollout")
    template = platform.get("deployment", "seen")["spec"]["template"]
    assert "kubectl.kubernetes.io/restartedAt" in template["metadata"]["annotations"]


def test_any_object_as_a_row_and_as_yaml(platform: Platform, visitor: Visitor) -> None:
    platform.kubectl("create", "secret", "generic", "kept", "--from-literal=k=opensesame")
    visitor.click("All resources")
    visitor.fill("Filter", "secrets")
    visitor.click("Secret")
    visitor.fill("Filter", "kept")
    visitor.click("kept")
    visitor.until("(10 bytes, hidden)", "pre")
    assert "b3BlbnNlc2FtZQ==" not in visitor.driver.page_source
    visitor.click("Show the values")
    visitor.until("b3BlbnNlc2FtZQ==", "pre")
    platform.kubectl("delete", "secret", "kept")
    visitor.until("not found", "#live")


def test_user_with_little_rights_is_told_politely(
    platform: Platform, visitor: Visitor, shipped: Any
) -> None:
    platform.kubectl("create", "serviceaccount", "guest")
    platform.kubectl("create", "rolebinding", "guest", "--clusterrole=view",
                     "--serviceaccount=default:guest")  # fmt: skip
    visitor.click("Log out")
    visitor.until("You have logged out.")
    visitor.open("/pods?namespace=default")
    visitor.fill("Bearer token", platform.kubectl("create", "token", "guest").stdout.strip())
    visitor.click("Log in")
    visitor.until_path("/pods?namespace=default")
    assert "system:serviceaccount:default:guest" in visitor.text("header")
    assert "seen-" in visitor.text("#live")
    visitor.click("Nodes")
    visitor.until("You may not see this")
    assert 'cannot list resource "nodes"' in visitor.text("[role=alert]")
    visitor.open("/workloads/deployments/default/seen")
    visitor.until("Rolled out", "#rollout")
    assert visitor.text("main form") == ""
    platform.kubectl("delete", "serviceaccount,rolebinding", "guest")
    # The live page may have found that out before.
    visitor.open("/pods?namespace=default")
    visitor.until("Log in", "h1")


def test_change_without_the_sessions_token_is_refused(
    platform: Platform, visitor: Visitor, shipped: Any
) -> None:
    visitor.open("/workloads/deployments/default/seen")
    visitor.driver.execute_script(
        "document.querySelectorAll('main [name=csrf]').forEach((field) => { field.value = 'x' })"
    )
    visitor.fill("Replicas", "3")
    visitor.click("Scale")
    visitor.until("does not carry this session's token")
    assert platform.get("deployment", "seen")["spec"]["replicas"] == 1
    # Another site's page: the browser itself keeps the cookie back.
    visitor.driver.get("data:text/html,<form method=post action="
                       f"'{visitor.base}/workloads/deployments/default/seen'>"
                       "<input name=action value=scale><input name=replicas value=3>"
                       "<button>Go</button></form>")  # fmt: skip
    visitor.click("Go")
    visitor.until_path("/workloads/deployments/default/seen")
    assert platform.get("deployment", "seen")["spec"]["replicas"] == 1


def test_ended_session_leaves_a_live_page(platform: Platform, visitor: Visitor) -> None:
    visitor.open("/pods")
    visitor.until("Pods", "h1")
    other = visitor.driver.current_window_handle
    visitor.driver.switch_to.new_window("window")
    visitor.open("/")
    visitor.click("Log out")
    visitor.until("You have logged out.")
    visitor.driver.close()
    visitor.driver.switch_to.window(other)
    visitor.until("Log in", "h1")


@pytest.fixture(scope="module")
def axe() -> str:
    """The accessibility checker axe-core, from npm."""
    kept = peers.PEERS / "axe-core-4.10.3.js"
    if not kept.exists():
        with tempfile.TemporaryDirectory() as scratch:
            subprocess.run(
                ["npm", "pack", "--silent", "axe-core@4.10.3"], cwd=scratch, check=True,
                capture_output=True, timeout=120,
            )  # fmt: skip
            (archive,) = Path(scratch).glob("*.tgz")
            with tarfile.open(archive) as package:
                member = package.extractfile("package/axe.min.js")
                assert member is not None
                kept.parent.mkdir(parents=True, exist_ok=True)
                kept.write_bytes(member.read())
    return kept.read_text(encoding="utf-8")


def test_pages_are_accessible(platform: Platform, visitor: Visitor, shipped: Any, axe: str) -> None:
    passage = shipped["passage"]["metadata"]["name"]

    def check(path: str, rules: str = "{}") -> None:
        visitor.open(path)
        visitor.driver.execute_script(axe)
        passes, violations = visitor.driver.execute_async_script(
            f"axe.run({rules}).then((found) => arguments[0](["
            "found.passes.length, found.violations.map((each) => [each.id, each.nodes[0].html])]))"
        )
        assert violations == [], path
        assert passes

    for path in (
        "/", "/workloads/deployments/default/seen", f"/passages/default/{passage}", "/pods",
        "/resources/core/v1/services/default/seen", "/registry", "/none",
    ):  # fmt: skip
        check(path)
    dark = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    visitor.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", dark)
    for path in ("/", f"/passages/default/{passage}", "/none"):
        check(path, "{runOnly: ['color-contrast']}")


def test_pages_are_readable_without_scripts(
    platform: Platform, shipped: Any, tmp_path: Path
) -> None:
    name = lasting_pod(platform)
    with chromium(tmp_path, "--blink-settings=scriptEnabled=false") as driver:
        driver.get(platform.underway("console", "--print").stdout.strip())
        visitor = Visitor(driver, base(platform))
        visitor.click("Pods")
        visitor.until(name, "#live")
        visitor.open(f"/pods/default/{name}/log/seen")
        visitor.until("line ", "#log")
        visitor.open("/workloads/deployments/default/seen")
        visitor.click("Restart")
        visitor.until("Restarting", "[role=status]")


def test_console_is_served_with_the_platforms_certificate(platform: Platform) -> None:
    import ssl

    context = ssl.create_default_context(cafile=platform.status()["caFile"])
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
    )
    with opener.open(base(platform) + "/login", timeout=20) as answer:
        assert answer.status == 200
        assert "default-src 'none'" in answer.headers["content-security-policy"]
