"""``underway console``: a browser that is logged in, or a token to log in with."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from urllib.parse import urlencode

import click
import msgspec

from underway.base.errors import AlreadyExists, BadRequest, NotFound, ServiceUnavailable
from underway.base.home import Home

_ACCOUNT = "kube-system/underway-console"
_BINDING = "underway:console"
_LIFE_S = 8 * 60 * 60  # as long as a session of the console
_LABELS = {"app.kubernetes.io/managed-by": "underway"}


def _account(context: click.Context, parameter: click.Parameter, value: str) -> tuple[str, str]:
    found = re.fullmatch(r"([a-z0-9-]+)/([a-z0-9.-]+)", value)
    if not found:
        raise click.BadParameter("a service account is given as NAMESPACE/NAME")
    return found[1], found[2]


_service_account = click.option(
    "--service-account",
    "account",
    default=_ACCOUNT,
    show_default=True,
    callback=_account,
    help="Log in as this service account.",
)


@click.group(invoke_without_command=True)
@click.option("--print", "only_print", is_flag=True, help="Print the address; open no browser.")
@_service_account
@click.pass_context
def console(context: click.Context, only_print: bool, account: tuple[str, str]) -> None:
    """Open the web console, logged in.

    The address works once, within a minute; it is printed, and opened where there is a display.
    Without a service account of your choice you are
    logged in as an administrator, as the kubeconfig that this command uses is one.

    \b
    underway console
    underway console --print
    underway console --service-account default/viewer --print
    """
    if context.invoked_subcommand is not None:
        return
    address = asyncio.run(_one_time_address(Home.from_environment(), account))
    click.echo(address)
    if not only_print and (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        click.launch(address)


@console.command()
@_service_account
def token(account: tuple[str, str]) -> None:
    """Print a bearer token for the login page; it holds for eight hours.

    \b
    underway console token
    """
    click.echo(asyncio.run(_token(Home.from_environment(), account)))


async def _token(home: Home, account: tuple[str, str]) -> str:
    """A token for a service account, asked for with the kubeconfig of the home.

    Raises:
        NotFound: there is no platform, or no such service account.
    """
    from underway.api.resources import CLUSTERROLEBINDINGS, SERVICEACCOUNTS
    from underway.client import kubeconfig

    if not home.kubeconfig.exists():
        raise NotFound(f"there is no platform in {home.root}", hint="start it: underway up")
    namespace, name = account
    async with contextlib.aclosing(kubeconfig.load(home.kubeconfig)) as client:
        if f"{namespace}/{name}" == _ACCOUNT:
            metadata = {"name": name, "namespace": namespace, "labels": _LABELS}
            with contextlib.suppress(AlreadyExists):
                await client.create(SERVICEACCOUNTS, {"metadata": metadata})
            binding = {
                "metadata": {"name": _BINDING, "labels": _LABELS},
                "roleRef": {
                    "apiGroup": "rbac.authorization.k8s.io",
                    "kind": "ClusterRole",
                    "name": "cluster-admin",
                },
                "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": namespace}],
            }
            with contextlib.suppress(AlreadyExists):
                await client.create(CLUSTERROLEBINDINGS, binding)
        request = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"expirationSeconds": _LIFE_S},
        }
        answer = await client.create(
            SERVICEACCOUNTS, request, namespace, name=name, subresource="token"
        )
    return str(answer["status"]["token"])


async def _one_time_address(home: Home, account: tuple[str, str]) -> str:
    """The console's address with a ticket that logs in once.

    Raises:
        ServiceUnavailable: the console does not answer.
    """
    from underway.transport.client import HttpTransport
    from underway.transport.pki import client_context
    from underway.wire.http import Request

    bearer = await _token(home, account)
    settings = home.load_settings()
    base_url = f"https://{settings.bind_address}:{settings.console_port}"
    fields = {}
    if f"{account[0]}/{account[1]}" == _ACCOUNT and (credential := _registry_credential(home)):
        fields["service.registry"] = credential
    headers = {"content-type": "application/x-www-form-urlencoded"}
    tls = client_context(home.pki / "ca.crt")
    async with HttpTransport(base_url, tls=tls, token=bearer) as transport:
        answer = await transport(
            Request("POST", "/login/tickets", "", headers, urlencode(fields).encode())
        )
    location = (await answer.read()).decode("utf-8", "replace")
    if answer.status != 201 or not location.startswith("/login/once/"):
        raise ServiceUnavailable(
            f"the console at {base_url} gave no ticket: HTTP {answer.status}",
            hint="is the platform running? underway status",
        )
    return base_url + location


def _registry_credential(home: Home) -> str:
    """What this machine's administrator shows the built-in registry, as a header's value."""
    try:
        entries = msgspec.json.decode(home.registry_auth.read_bytes())["auths"]
        return "Basic " + str(next(iter(entries.values()))["auth"])
    except FileNotFoundError:
        return ""
    except (msgspec.DecodeError, KeyError, StopIteration, TypeError, AttributeError) as error:
        raise BadRequest(f"{home.registry_auth} is no auth.json") from error
