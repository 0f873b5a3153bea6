"""`flows call`: a conversation with a running service, as a caller would have it."""

import io
import secrets
import sys
from collections.abc import Iterator
from typing import Any

import httpx
from rich.console import Console
from rich.markup import escape

from server.commands.showing import open_console, show_answer, show_problem, show_summary
from server.listening import is_loopback

DEFAULT_URL = "http://127.0.0.1:8000"

_HELP = "Type what the caller says. /as INTENT WORDS sends an intent along; /where, /steps, /quit."


class NoService(OSError):
    """No service of ours answers at the address."""


def talk(url: str, call_id: str | None, account: str, eci: str) -> None:
    """Read what the caller says from the terminal until the call is complete.

    Raises:
        NoService: if `url` is no address, or no service answers there.
    """
    console = open_console()
    who = {"call_identify_id": call_id or f"CALL-{secrets.token_hex(4)}", "account_id": account, "eci": eci}
    who = {name: in_unicode(value) for name, value in who.items()}
    address = address_of(url)
    # A proxy that the environment names cannot reach a service on this machine's loopback.
    with httpx.Client(base_url=address, timeout=60, trust_env=not is_loopback(address.host)) as client:
        try:
            document_of(client.get("/health").raise_for_status())
            console.print(f"call [bold]{escape(who['call_identify_id'])}[/bold] at {escape(url)}. {escape(_HELP)}")
            for line in _lines(console):
                if _take(console, client, who, line):
                    return
        except httpx.HTTPStatusError as error:
            raise NoService(f"what answers at {url} is no service of ours; check the address") from error
        except httpx.HTTPError as error:
            reason = f"no service answers at {url} ({error or type(error).__name__})"
            raise NoService(f"{reason}; start one with `flows demo` or `flows serve`") from error


def address_of(url: str) -> httpx.URL:
    try:
        address = httpx.URL(url)
    except httpx.InvalidURL:
        address = httpx.URL()
    if address.scheme not in ("http", "https") or not address.host or not 0 < (address.port or 80) < 65536:
        raise NoService(f"{url!r} is no address; write http://host:port")
    return address


def _lines(console: Console) -> Iterator[str]:
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")
    while True:
        try:
            line = console.input("[bold]you>[/bold] ").strip()
        except (EOFError, KeyboardInterrupt):
            console.print()
            return
        if not sys.stdin.isatty():
            console.print(line, markup=False, highlight=False)
        if line == "/quit":
            return
        if line:
            yield line


def in_unicode(text: str) -> str:
    """Return an argument of the command line with U+FFFD for the bytes in it that are not UTF-8."""
    return text.encode(errors="surrogateescape").decode(errors="replace")


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
    told = document_of(answer)
    if answer.status_code != httpx.codes.OK:
        show_problem(console, told)
        return False
    show_answer(console, told)
    if told["is_complete"]:
        show_summary(console, told["session_summary"])
    return bool(told["is_complete"])


def document_of(answer: httpx.Response) -> dict[str, Any]:
    try:
        return dict(answer.json())
    except (ValueError, TypeError) as error:
        raise NoService(f"what answers at {answer.url} is no service of ours; check the address") from error


def _print_json(console: Console, answer: httpx.Response) -> None:
    console.print_json(answer.text)
