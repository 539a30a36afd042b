"""Java: Maven and Gradle projects that make one jar, run by a JRE."""

from __future__ import annotations

import re

from underway.capabilities.packs.model import Lacking, Listing, Plan

_DEFAULT_PORT = 8080
_DEFAULT_VERSION = "17"
_HINT = "ship the directory of one module, or write a Dockerfile"
_PROPERTIES = "src/main/resources/application.properties"
_YAML = ("src/main/resources/application.yml", "src/main/resources/application.yaml")
# Frameworks that take their port from a variable of their own; others read PORT themselves.
_FRAMEWORKS = {
    "springframework.boot": ("Spring Boot", "SERVER_PORT"),
    "quarkus": ("Quarkus", "QUARKUS_HTTP_PORT"),
    "micronaut": ("Micronaut", "MICRONAUT_SERVER_PORT"),
}


def detect(listing: Listing, port: int | None) -> Plan | Lacking | None:
    """The plan of a Java application; nothing where there is neither pom.xml nor build.gradle."""
    project = listing.first("pom.xml", "build.gradle", "build.gradle.kts")
    if not project:
        return None
    text = listing.text(project)
    if project == "pom.xml":
        if re.search(r"<packaging>\s*war\s*<", text):
            return Lacking("Java", "pom.xml makes a war, which needs a servlet container", _HINT)
        if "<modules>" in text:
            return Lacking("Java", "pom.xml is of several modules", _HINT)
        build = _maven(listing, text)
    else:
        build = _gradle(listing, text)
    framework, variable = next(
        (found for mark, found in _FRAMEWORKS.items() if mark in text), ("", "PORT")
    )
    version = _version(text)
    why = f"{framework}, " if framework else ""
    return Plan(
        language="java",
        evidence=f"Java: {project}; {why}Java {version}",
        port=port or _configured_port(listing) or _DEFAULT_PORT,
        template="java.Dockerfile",
        command=("java", "-jar", build[-1]),
        values={
            "builder": build[0].format(version=version),
            "build": build[1],
            "output": build[2],
            "home": build[3],
            "version": version,
            "port_variable": variable,
        },
    )


def _maven(listing: Listing, text: str) -> tuple[str, str, str, str, str]:
    """Base image, command, what is copied from where, cache, and the jar's place."""
    mvn = "mvn -B -q -DskipTests package"
    if "quarkus" in text:
        return "maven:3-eclipse-temurin-{version}", mvn, "target/quarkus-app", _M2, _QUARKUS
    pick = _pick("target")
    return "maven:3-eclipse-temurin-{version}", f"{mvn} && {pick}", "app.jar", _M2, _JAR


def _gradle(listing: Listing, text: str) -> tuple[str, str, str, str, str]:
    wrapper = "gradlew" in listing.files
    base = "eclipse-temurin:{version}" if wrapper else "gradle:8-jdk{version}"
    command = "sh ./gradlew" if wrapper else "gradle"
    boot = "org.springframework.boot" in text
    shadow = "shadow" in text
    task = "bootJar" if boot else "shadowJar" if shadow else "build -x test"
    command = f"{command} --no-daemon -q {task}"
    if "quarkus" in text:
        return base, command, "build/quarkus-app", _GRADLE_HOME, _QUARKUS
    return base, f"{command} && {_pick('build/libs')}", "app.jar", _GRADLE_HOME, _JAR


_M2 = "/root/.m2"
_GRADLE_HOME = "/root/.gradle"
_JAR = "/app/app.jar"
_QUARKUS = "/app/quarkus-run.jar"


def _pick(folder: str) -> str:
    """Copy the jar with the program: the others have the source, or only a part."""
    parts = "sources|javadoc|tests|plain"
    return (
        f"cp \"$(ls -S {folder}/*.jar | grep -Ev -- '-({parts})\\.jar$|/original-' | head -n 1)\""
        " app.jar"
    )


def _version(text: str) -> str:
    """The release it is compiled for, at least 17; older source compiles there too."""
    for pattern in (
        r"<(?:java\.version|maven\.compiler\.(?:release|target|source)|release)>\s*(?:1\.)?(\d+)",
        r"JavaLanguageVersion\.of\((\d+)\)",
        r"(?:source|target)Compatibility\s*=?\s*(?:JavaVersion\.VERSION_)?['\"]?(?:1[._])?(\d+)",
        r"jvmToolchain\((\d+)\)",
    ):
        found = re.search(pattern, text)
        if found:
            return max(found[1], _DEFAULT_VERSION, key=int)
    return _DEFAULT_VERSION


def _configured_port(listing: Listing) -> int:
    match = re.search(r"^\s*server\.port\s*=\s*(\d{2,5})\s*$", listing.text(_PROPERTIES), re.M)
    if match:
        return int(match[1])
    text = listing.text(listing.first(*_YAML))
    match = re.search(r"^server:\s*\n(?:[ \t]+.*\n)*?[ \t]+port:\s*(\d{2,5})\s*$", text, re.M)
    return int(match[1]) if match else 0
