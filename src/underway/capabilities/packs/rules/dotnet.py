""".NET: one project file, published and run by the ASP.NET runtime."""

from __future__ import annotations

import re

from underway.capabilities.packs.model import Lacking, Listing, Plan

_DEFAULT_PORT = 8080
_DEFAULT_VERSION = "8.0"
_PROJECT = r"(?:[\w.-]+/){0,2}[\w.-]+\.(?:cs|fs|vb)proj"
_HINT = "ship the directory of one application, or write a Dockerfile"


def detect(listing: Listing, port: int | None) -> Plan | Lacking | None:
    """The plan of a .NET application; nothing where there is no project file."""
    projects = [name for name in listing.matching(_PROJECT) if not _is_test(listing.text(name))]
    if not projects:
        return None
    runnable = [name for name in projects if _is_program(listing.text(name))]
    if len(runnable) != 1:
        listed = ", ".join(runnable or projects)
        return Lacking(".NET", f"not exactly one application (found: {listed})", _HINT)
    text = listing.text(runnable[0])
    web = "Microsoft.NET.Sdk.Web" in text
    framework = re.search(r"<TargetFrameworks?>\s*net(\d+\.\d+)", text)
    version = framework[1] if framework else _DEFAULT_VERSION
    assembly = re.search(r"<AssemblyName>\s*([\w.-]+)\s*<", text)
    name = assembly[1] if assembly else runnable[0].rpartition("/")[2].rpartition(".")[0]
    return Plan(
        language="dotnet",
        evidence=f".NET: {runnable[0]}; {'ASP.NET' if web else 'a program'}, .NET {version}",
        port=port or _DEFAULT_PORT,
        template="dotnet.Dockerfile",
        command=("dotnet", f"{name}.dll"),
        values={
            "project": runnable[0],
            "version": version,
            "runtime": "aspnet" if web else "runtime",
        },
    )


def _is_test(text: str) -> bool:
    return "Microsoft.NET.Test.Sdk" in text


def _is_program(text: str) -> bool:
    return "Microsoft.NET.Sdk.Web" in text or bool(re.search(r"<OutputType>\s*Exe", text))
