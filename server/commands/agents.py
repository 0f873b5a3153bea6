"""`flows agents`: how the agents of a running service do, as a live table; switching them off and on, weighing their
versions, registering instances of them.
"""

import getpass
import json
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import httpx
from rich.console import Console, Group
from rich.live import Live

from server.commands.administering import administering
from server.commands.agents_table import as_fits, cell, line, print_whole
from server.commands.inputs import BadInput
from server.commands.showing import open_console
from server.commands.talking import NoService, document_of, in_unicode

_EACH_SECONDS, _PATIENCE_SECONDS = 1.0, 5.0
_NUMBER = re.compile(r"[+-]?\d{1,20}(\.\d{1,20})?")
_LARGEST_WEIGHT = 1_000_000
_Agent = Mapping[str, Any]


def show_agents(url: str, *, once: bool, as_json: bool) -> None:
    """Print all agents with how their endpoints do: again each second until Ctrl-C, if a person looks on.

    Args:
        url: the service's address.
        once: print them once.
        as_json: print the document of the service instead, once.

    Raises:
        NoService: if `url` is no address, no service answers there, or it does not let us.
    """
    console = open_console()
    with administering(url) as service:
        told = _told(service.get("/agents"), url)
        if as_json:
            console.print(json.dumps(told, indent=2), markup=False, highlight=False, soft_wrap=True)
        elif once or not console.is_terminal:
            print_whole(console, told["agents"])
        else:
            _keep_showing(console, service, url, told)


def switch_off(url: str, name: str, reason: str, by: str | None) -> None:
    """Let no call reach an agent, and print what that leads to.

    Raises:
        NoService: if no service answers, or it does not do it.
    """
    told = _done(url, "POST", f"/agents/{_quoted(name)}/off", {"by": _who(by), "reason": in_unicode(reason)})
    _say(f"{told['name']} is off: no call reaches it; {_instead(told)}")


def switch_on(url: str, name: str, why: str | None, by: str | None) -> None:
    """Let calls reach an agent again.

    Raises:
        NoService: if no service answers, or it does not do it.
    """
    said = {"by": _who(by)} | ({"why": in_unicode(why)} if why is not None else {})
    _say(f"{_done(url, 'POST', f'/agents/{_quoted(name)}/on', said)['name']} is on")


def weigh(url: str, name: str, given: Sequence[str], why: str, by: str | None, *, reset: bool) -> None:
    """Share out the calls of an agent over its versions anew, and print how.

    Args:
        url: the service's address.
        name: the agent's.
        given: `VERSION=WEIGHT`, each.
        reset: go back to the weights that its flow says instead.
        why: the history keeps it.
        by: who says so; whoever is logged in here if None.

    Raises:
        BadInput: if a weight cannot be read, or there is none.
        NoService: if no service answers, or it does not do it.
    """
    if reset == bool(given):
        raise BadInput("say either the weights, such as v1=90 v2=10, or --reset for those of the flow")
    said = {"weights": None if reset else _weights(given), "by": _who(by), "why": in_unicode(why)}
    told = _done(url, "PUT", f"/agents/{_quoted(name)}/weights", said)
    shares = ", ".join(map(_share, told["versions"])) or "it has no versions"
    _say(f"{told['name']} is weighed: {shares}")


def register(url: str, said: Mapping[str, Any]) -> None:
    """Register an instance of an agent, and print how long it is kept.

    Args:
        url: the service's address.
        said: the fields of the request; those that are None are left out.

    Raises:
        NoService: if no service answers, or it does not do it.
    """
    document = {name: in_unicode(value) if isinstance(value, str) else value for name, value in said.items()}
    document = {name: value for name, value in document.items() if value is not None}
    with administering(url, option="--service") as service:
        told = _told(service.post("/agents/register", json=document), url)
    of = "" if told["agent_type"] == told["name"] else f" as one of {told['agent_type']}"
    kept = "until it is removed"
    if told["expires_at"] is not None:
        kept = f"until {told['expires_at']} unless it sends POST /agents/{told['name']}/heartbeat"
    _say(f"{told['name']} is registered{of} at {told['url']}, {kept}")


def remove(url: str, name: str) -> None:
    """Take a registered instance away.

    Raises:
        NoService: if no service answers, or there is no such instance.
    """
    _done(url, "DELETE", f"/agents/{_quoted(name)}")
    _say(f"{in_unicode(name)} is removed")


def _keep_showing(console: Console, service: httpx.Client, url: str, told: Mapping[str, Any]) -> None:
    """Show the table until Ctrl-C; a service that does not answer for a while leaves it standing."""
    trouble = ""
    with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
        try:
            while True:
                foot = line(trouble or f"{url}, {told['heard_at']}; Ctrl-C ends", "red" if trouble else "dim")
                live.update(Group(*as_fits(console, told["agents"]), foot), refresh=True)
                time.sleep(_EACH_SECONDS)
                try:
                    told, trouble = _told(service.get("/agents", timeout=_PATIENCE_SECONDS), url), ""
                except (httpx.HTTPError, NoService) as error:
                    trouble = f"what stands here is of {told['heard_at']}: {error or type(error).__name__}"
        except KeyboardInterrupt:
            return


def _instead(agent: _Agent) -> str:
    """Tell what happens while an agent is off."""
    if agent["fallback"]:
        return f"its fallback {agent['fallback']!r} is asked in its place"
    if agent["flows"]:
        return (
            "it has no fallback of its own, so its flow's fallback answers and the call stays at its stage; "
            "where there is none, the step fails"
        )
    return "no flow names it: whatever asks for one of this type turns to its own fallback, or fails"


def _share(version: Mapping[str, Any]) -> str:
    if version["weight"] is None and version["share"] is not None:
        return f"{version['version']} only where no other can be asked"
    return f"{version['version']} {version['share'] or 0:.0%}"


def _weights(given: Sequence[str]) -> dict[str, float]:
    weights: dict[str, float] = {}
    for one in map(in_unicode, given):
        version, _, number = one.rpartition("=")
        if not version or not _NUMBER.fullmatch(number):
            raise BadInput(f"{one!r} is no weight; write VERSION=WEIGHT, a plain number, such as v1=90 v2=10")
        if not 0 <= float(number) <= _LARGEST_WEIGHT:
            raise BadInput(f"the weight of {version!r} is {number}; write a number from 0 to {_LARGEST_WEIGHT:,}")
        if version in weights:
            raise BadInput(f"version {version!r} is there twice; give it one weight")
        weights[version] = float(number)
    return weights


def _who(by: str | None) -> str:
    if by is not None:
        return in_unicode(by)
    try:
        return in_unicode(getpass.getuser())
    except (KeyError, OSError):
        raise BadInput("nobody knows who you are here; say it with --by") from None


def _quoted(name: str) -> str:
    return quote(in_unicode(name), safe="")


def _done(url: str, method: str, path: str, said: Mapping[str, Any] | None = None) -> dict[str, Any]:
    with administering(url) as service:
        return _told(service.request(method, path, json=said), url)


def _told(answer: httpx.Response, url: str) -> dict[str, Any]:
    """Return the document of an answer, empty if there is none, if what was asked for was done."""
    if answer.status_code == httpx.codes.NO_CONTENT:
        return {}
    told = document_of(answer)
    if not answer.is_success:
        errors = "; ".join(f"{error['field']}: {error['message']}" for error in told.get("errors", ()))
        why = errors or told.get("detail", answer.reason_phrase)
        raise NoService(f"the service at {url} did not do it: {why}")
    return told


def _say(text: str) -> None:
    open_console().print(cell(text), highlight=False, soft_wrap=True)
