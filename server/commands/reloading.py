"""`flows reload`: a running service reads the files of its flows again."""

from collections.abc import Mapping
from typing import Any

import typer

from server.commands.administering import administering
from server.commands.talking import NoService, document_of


def reload_flows(url: str) -> bool:
    """Ask the service to read its files again and print what came of it; tell whether every file checks.

    Raises:
        NoService: if `url` is no address, no service answers there, or it does not let us.
    """
    with administering(url) as service:
        answer = service.post("/flows/reload")
    told = document_of(answer)
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
