"""`flows explain`: why a call of a running service went where it went, as a story or as JSON."""

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import httpx

from server.commands.showing import open_console
from server.commands.talking import NoService, address_of, document_of, in_unicode
from server.listening import is_loopback


def explain_call(url: str, call: str, *, as_json: bool) -> None:
    """Print why each step of a call was made as it was.

    Args:
        url: the service's address.
        call: the call's id.
        as_json: print the document of the service instead.

    Raises:
        NoService: if `url` is no address, no service answers there, or it has no such call.
    """
    told = _asked(url, in_unicode(call))
    console = open_console()
    if as_json:
        console.print(json.dumps(told, indent=2), markup=False, highlight=False, soft_wrap=True)
        return
    for step in told["steps"]:
        for line in (_headline(step), *(f"    {sentence}" for sentence in step["story"])):
            console.print(_printable(line), markup=False, highlight=False, soft_wrap=True)


def _asked(url: str, call: str) -> dict[str, Any]:
    address = address_of(url)
    # A proxy that the environment names cannot reach a service on this machine's loopback.
    try:
        with httpx.Client(base_url=address, timeout=60, trust_env=not is_loopback(address.host)) as client:
            answer = client.get(f"/session/{quote(call, safe='')}/explain")
            told = document_of(answer)
    except httpx.HTTPError as error:
        why = str(error) or type(error).__name__
        raise NoService(f"no service answers at {url} ({why}); name it with --url") from error
    if not answer.is_success or "steps" not in told:
        raise NoService(f"the service at {url} cannot tell: {told.get('detail', answer.reason_phrase)}")
    return told


def _headline(step: Mapping[str, Any]) -> str:
    branch = f"/{step['branch']}" if "branch" in step else ""
    status = step["outcome"]["status"]
    return f"step {step['step']} · {step['stage']}{branch} ({step['intent_flow_id']}) · {step['at']} · {status}"


def _printable(line: str) -> str:
    """Return a line without what would end it or move the cursor: agents may say anything."""
    return "".join(letter if letter.isprintable() else " " for letter in line)
