"""`flows parked` and `flows resolve`: the writes of which nobody knows what came of them, and what a person says."""

import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import httpx
from rich.cells import cell_len, set_cell_size

from server.commands.administering import administering
from server.commands.showing import open_console
from server.commands.talking import NoService, document_of, in_unicode

_COLUMNS = {
    "id": "ID",
    "call_identify_id": "CALL",
    "stage": "STAGE",
    "agent": "AGENT",
    "sent_at": "SENT AT",
    "input_message": "WHAT WAS SAID",
}
_LONGEST_WORDS = 80


def show_parked(url: str) -> None:
    """Print the writes that wait for a person, the oldest first.

    Raises:
        NoService: if `url` is no address, no service answers there, or it does not let us.
    """
    with administering(url) as service:
        waiting = _told(service.get("/parked"), "parked", url)
    rows = [[_cell(name, one[name]) for name in _COLUMNS] for one in waiting["parked"]]
    console = open_console()
    for line in _lined_up([[*_COLUMNS.values()], *rows]) if rows else ["nothing is parked"]:
        console.print(line, markup=False, highlight=False, soft_wrap=True)  # an id is there to be copied whole


def resolve_parked(url: str, parked: str, outcome: str, by: str, why: str, response: str | None) -> None:
    """Say what came of a write, and print what that led to.

    Args:
        url: the service's address.
        parked: the write's id.
        outcome: `done` or `not_done`.
        by: who says so.
        why: how they know.
        response: what the agent answered, as text or as a JSON object; None if that is not known.

    Raises:
        NoService: if `url` is no address, no service answers there, or it does not take it.
    """
    said = {"outcome": outcome, "by": in_unicode(by), "why": in_unicode(why)}
    if response is not None:
        said["response"] = _response(in_unicode(response))
    with administering(url) as service:
        answer = service.post(f"/parked/{quote(in_unicode(parked), safe='')}/resolve", json=said)
    settled = _told(answer, "step", url)
    open_console().print(_came_of(settled), markup=False, highlight=False, soft_wrap=True)


def _told(answer: httpx.Response, wanted: str, url: str) -> dict[str, Any]:
    """Return the document of an answer, if it has what was wanted."""
    told = document_of(answer)
    if wanted not in told or not answer.is_success:
        errors = "; ".join(f"{error['field']}: {error['message']}" for error in told.get("errors", ()))
        why = errors or told.get("detail", answer.reason_phrase)
        raise NoService(f"the service at {url} did not do it: {why}")
    return told


def _response(text: str) -> Any:
    """Return a JSON object as such, and all else as the text that it is."""
    try:
        told = json.loads(text)
    except ValueError:
        return text
    return told if isinstance(told, dict) else text


def _came_of(told: Mapping[str, Any]) -> str:
    settled = f"{told['id']} is settled as {told['outcome']}"
    step = told["step"]
    return f"{settled}: step {step['number']} of call {told['call_identify_id']} tells of it"


def _cell(name: str, value: object) -> str:
    """Return a value on one line, without what would move the cursor: callers may say anything."""
    text = "".join(letter if letter.isprintable() else " " for letter in str(value))
    is_cut = name == "input_message" and len(text) > _LONGEST_WORDS
    return f"{text[:_LONGEST_WORDS]}…" if is_cut else text


def _lined_up(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(set_cell_size(cell, width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
