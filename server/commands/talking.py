"""`flows call`: a conversation with a running service, as a caller would have it."""

import secrets
from collections.abc import Iterator
from typing import Any

import httpx
from rich.console import Console
from rich.markup import escape

from server.commands.showing import show_answer, show_problem, show_summary

_HELP = "Type what the caller says. /as INTENT WORDS sends an intent along; /where, /steps, /quit."


class NoService(OSError):
    """Nobody answers at the address."""


def talk(url: str, call_id: str | None, account: str, eci: str) -> None:
    """Read what the caller says from the terminal until the call is complete.

    Raises:
        NoService: if no service answers at `url`.
    """
    console = Console()
    who = {"call_identify_id": call_id or f"CALL-{secrets.token_hex(4)}", "account_id": account, "eci": eci}
    with httpx.Client(base_url=url, timeout=60) as client:
        try:
            client.get("/health").raise_for_status()
            console.print(f"call [bold]{escape(who['call_identify_id'])}[/bold] at {escape(url)}. {escape(_HELP)}")
            for line in _lines(console):
                if _take(console, client, who, line):
                    return
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise NoService(f"no service answers at {url}; start one with `flows demo` or `flows serve`") from error


def _lines(console: Console) -> Iterator[str]:
    while True:
        try:
            line = console.input("[bold]you>[/bold] ").strip()
        except (EOFError, KeyboardInterrupt):
            return
        if line == "/quit":
            return
        if line:
            yield line


def _take(console: Console, client: httpx.Client, who: dict[str, str], line: str) -> bool:
    """Do what the line asks; tell whether the call is over."""
    path = f"/session/{httpx.URL('/').copy_with(path='/' + who['call_identify_id']).raw_path.decode()[1:]}"
    if line == "/where":
        _print_json(console, client.get(path))
    elif line == "/steps":
        _print_json(console, client.get(f"{path}/steps"))
    elif line == "/as" or (line.startswith("/") and not line.startswith("/as ")):
        console.print(escape(_HELP))
    else:
        return _turn(console, client, who, line)
    return False


def _turn(console: Console, client: httpx.Client, who: dict[str, str], line: str) -> bool:
    sent: dict[str, Any] = {**who, "input_message": line}
    if line.startswith("/as "):
        _, intent, *words = line.split(maxsplit=2)
        sent |= {"intent": intent, "input_message": words[0] if words else intent}
    answer = client.post("/orchestrate", json=sent)
    if answer.status_code != httpx.codes.OK:
        show_problem(console, answer.json())
        return False
    told = answer.json()
    show_answer(console, told)
    if told["is_complete"]:
        show_summary(console, told["session_summary"])
    return bool(told["is_complete"])


def _print_json(console: Console, answer: httpx.Response) -> None:
    console.print_json(answer.text)
