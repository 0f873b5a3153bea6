"""`flows reload`: a running service reads the files of its flows again."""

import os
from collections.abc import Mapping
from typing import Any

import httpx
import typer

from server.commands.talking import NoService, address_of, document_of
from server.listening import is_loopback

_TOKEN = "FLOWS_ADMIN_TOKEN"  # noqa: S105  (the variable's name)


def reload_flows(url: str) -> bool:
    """Ask the service to read its files again and print what came of it; tell whether every file checks.

    Raises:
        NoService: if `url` is no address, no service answers there, or it does not let us.
    """
    address = address_of(url)
    token = os.environ.get(_TOKEN)
    headers = {"authorization": f"Bearer {token}"} if token else {}
    # A proxy that the environment names cannot reach a service on this machine's loopback.
    try:
        with httpx.Client(base_url=address, timeout=60, trust_env=not is_loopback(address.host)) as client:
            answer = client.post("/flows/reload", headers=headers)
        told = document_of(answer)
    except httpx.HTTPError as error:
        why = str(error) or type(error).__name__
        raise NoService(f"no service answers at {url} ({why}); name it with --url") from error
    if "changed" not in told:
        raise NoService(f"the service at {url} did not reload: {told.get('detail', answer.reason_phrase)}")
    _print(told)
    return answer.is_success


def _print(told: Mapping[str, Any]) -> None:
    for flow, change in told["changed"].items():
        typer.echo(f"{flow}: {change['from'] or 'new'} → {change['to'] or 'gone'}")
    for error in told.get("errors", ()):
        typer.echo(f"flows: {error['file']}:{error['line']}: {error['message']}", err=True)
    if not told["changed"]:
        typer.echo("nothing has changed")
