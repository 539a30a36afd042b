"""Java, Rust, PHP, Ruby, .NET, and the lock files of Python and Node."""

import pytest

from underway.base.errors import BadRequest
from underway.capabilities.packs.model import Listing, Plan
from underway.capabilities.packs.rules import detect

SPRING = "<groupId>org.springframework.boot</groupId><java.version>21</java.version>"


def of(files: dict[str, str], port: int | None = None) -> Plan:
    return detect(Listing(frozenset(files), files), port)


def test_maven_makes_one_jar():
    found = of({"pom.xml": "<project/>"})
    assert (found.language, found.port) == ("java", 8080)
    assert found.values["builder"] == "maven:3-eclipse-temurin-17"
    assert "target/*.jar" in found.values["build"]


def test_spring_says_its_port_and_its_java():
    properties = "# settings\nserver.port = 9001\n"
    found = of({"pom.xml": SPRING, "src/main/resources/application.properties": properties})
    assert (found.port, found.values["port_variable"]) == (9001, "SERVER_PORT")
    assert found.values["builder"] == "maven:3-eclipse-temurin-21"
    yaml = "spring:\n  x: 1\nserver:\n  address: 0.0.0.0\n  port: 9002\n"
    assert of({"pom.xml": SPRING, "src/main/resources/application.yml": yaml}).port == 9002


def test_quarkus_is_copied_whole():
    found = of({"pom.xml": "<artifactId>quarkus-bom</artifactId>"})
    assert found.values["output"] == "target/quarkus-app"
    assert found.command == ("java", "-jar", "/app/quarkus-run.jar")


@pytest.mark.parametrize(("files", "builder", "command"), [
    ({"build.gradle": "", "gradlew": ""}, "eclipse-temurin:17", "sh ./gradlew"),
    ({"build.gradle.kts": "jvmToolchain(21)"}, "gradle:8-jdk21", "gradle --no-daemon"),
    ({"build.gradle": "id 'org.springframework.boot'", "gradlew": ""}, "eclipse-temurin:17", "bootJar"),
])  # fmt: skip
def test_gradle_by_wrapper_or_image(files, builder, command):
    found = of(files)
    assert found.values["builder"] == builder
    assert command in found.values["build"]


@pytest.mark.parametrize("text", ["<packaging>war</packaging>", "<modules><module>a</module>"])
def test_what_makes_no_single_jar_is_said(text):
    with pytest.raises(BadRequest, match=r"Java: pom\.xml"):
        of({"pom.xml": text})


def test_the_binary_of_a_rust_package():
    cargo = '[package]\nname = "shop"\n'
    found = of({"Cargo.toml": cargo, "src/main.rs": 'bind("0.0.0.0:3030")', "Cargo.lock": ""})
    assert (found.values["binary"], found.port, found.values["locked"]) == ("shop", 3030, True)
    found = of({"Cargo.toml": cargo, "src/bin/serve.rs": "([0, 0, 0, 0], 4040)", "src/lib.rs": ""})
    assert (found.values["binary"], found.port) == ("serve", 4040)


@pytest.mark.parametrize(("cargo", "reason"), [
    ("[workspace]\nmembers = ['a']\n", "workspace"),
    ("[package]\nname = 'a'\n", "found: none"),
    ("[package]\nname = 'a'\n[[bin]]\nname='x'\n[[bin]]\nname='y'\n", "found: x, y"),
    ("[package", "Cargo.toml:"),
])  # fmt: skip
def test_rust_without_one_binary_is_said(cargo, reason):
    with pytest.raises(BadRequest, match=reason):
        of({"Cargo.toml": cargo})


@pytest.mark.parametrize(("files", "folder"), [
    ({"index.php": ""}, "."),
    ({"public/index.php": "", "composer.json": "{}"}, "public"),
    ({"artisan": "", "composer.json": "{}", "public/index.php": ""}, "public"),
])  # fmt: skip
def test_the_folder_that_php_serves(files, folder):
    found = of(files)
    assert (found.language, found.values["folder"], found.port) == ("php", folder, 80)


def test_a_php_library_is_no_application():
    with pytest.raises(BadRequest, match=r"no index\.php"):
        of({"composer.json": "{}", "src/a.php": ""})


def test_extensions_that_php_lacks():
    composer = '{"require": {"php": "^8", "ext-bcmath": "*", "ext-json": "*"}}'
    assert of({"composer.json": composer, "index.php": ""}).values["extensions"] == ["bcmath"]


@pytest.mark.parametrize(("files", "command", "port"), [
    ({"Gemfile": "gem 'rails'", "config/application.rb": "", "config.ru": ""},
     ("bundle", "exec", "rails", "server", "-b", "0.0.0.0", "-p", "3000"), 3000),
    ({"Gemfile": "gem 'puma'", "config.ru": ""},
     ("bundle", "exec", "puma", "-b", "tcp://0.0.0.0:9292"), 9292),
    ({"Gemfile": "", "app.rb": "require 'sinatra'"},
     ("bundle", "exec", "ruby", "app.rb", "-o", "0.0.0.0", "-p", "4567"), 4567),
    ({"server.rb": "TCPServer.new('0.0.0.0', 7070)"}, ("ruby", "server.rb"), 7070),
])  # fmt: skip
def test_how_ruby_is_run(files, command, port):
    found = of(files)
    assert (found.command, found.port) == (command, port)


def test_dotnet_by_its_project_file():
    project = '<Project Sdk="Microsoft.NET.Sdk.Web"><TargetFramework>net9.0</TargetFramework>'
    tests = '<PackageReference Include="Microsoft.NET.Test.Sdk"/>'
    found = of({"Shop/Shop.csproj": project, "Shop.Tests/Shop.Tests.csproj": tests})
    assert found.command == ("dotnet", "Shop.dll")
    assert (found.values["runtime"], found.values["version"]) == ("aspnet", "9.0")


def test_a_dotnet_library_is_no_application():
    with pytest.raises(BadRequest, match=r"\.NET: not exactly one application"):
        of({"Lib.csproj": '<Project Sdk="Microsoft.NET.Sdk">'})


@pytest.mark.parametrize(
    ("lock", "tool"), [("uv.lock", "uv export"), ("poetry.lock", "poetry export")]
)
def test_locks_of_python_are_followed(lock, tool):
    files = {"pyproject.toml": "[project]\nname='a'\n", lock: "", "app.py": ""}
    values = of(files).values
    assert values["early"] == ["pyproject.toml", lock]
    assert tool in values["install_early"]


@pytest.mark.parametrize(("files", "install"), [
    ({"pnpm-lock.yaml": ""}, "npm install -g pnpm@9 && pnpm install --frozen-lockfile --prod"),
    ({"yarn.lock": ""}, "npm install -g yarn@1 && yarn install --frozen-lockfile --production"),
    ({"yarn.lock": "", ".yarnrc.yml": ""}, "npm install -g @yarnpkg/cli-dist && yarn install --immutable"),
    ({"package-lock.json": ""}, "npm ci --omit=dev --no-audit --no-fund"),
])  # fmt: skip
def test_locks_of_node_choose_the_package_manager(files, install):
    package = '{"main": "a.js", "dependencies": {"x": "1"}}'
    assert of({"package.json": package, "a.js": "", **files}).values["install"] == install
