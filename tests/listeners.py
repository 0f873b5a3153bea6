"""Clients that listen to calls: server-sent events as a browser reads them, a socket, and what both are told."""

import json
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import quote

from websockets.sync.client import ClientConnection, connect

from graph.trail import answer
from tests.conftest import Service

Json = dict[str, Any]
CALL = [
    ("Hello, I need help", "greeting"),
    ("My SSN is 123-45-6789", "verify_identity"),
    ("I need a refund", "refund_request"),
    ("Yes, go ahead", "process_refund"),
    ("Bye", "closing"),
]
LAST = ("turn", "error")


def said(message: str, intent: str | None = None, **more: Any) -> Json:
    """A message of account ACC-1, as every door of turns takes it."""
    return {"account_id": "ACC-1", "eci": "ECI-7", "input_message": message, "intent": intent, **more}


def read(lines: Iterable[str]) -> Iterator[Json]:
    """Read server-sent events as the standard says; each is its data with its `id`, if it has one."""
    fields: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        if name:
            fields[name] = value.removeprefix(" ")
        elif "data" in fields:
            event = json.loads(fields["data"])
            assert event["event"] == fields["event"]
            yield {**({"id": fields["id"]} if "id" in fields else {}), **event}
        if not line:
            fields = {}


def stream(service: Service, call: str, message: str, intent: str | None = None, after: str = "") -> list[Json]:
    """Take a turn over `/orchestrate/stream` to its end, or go on after an event of one."""
    sent, headers = said(message, intent, call_identify_id=call), {"last-event-id": after} if after else {}
    with service.http.stream("POST", "/orchestrate/stream", json=sent, headers=headers) as told:
        assert (told.status_code, told.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
        return list(read(told.iter_lines()))


def socket_of(service: Service, call: str, query: str = "", **options: Any) -> ClientConnection:
    """Open a socket for a call; a context that closes it."""
    url = f"{service.url.replace('http', 'ws', 1)}/ws/{quote(call)}{query}"
    socket: ClientConnection = connect(url, **options)
    return socket


def turn(socket: ClientConnection, message: str, intent: str | None = None, **more: Any) -> list[Json]:
    """Take a turn over a socket."""
    socket.send(json.dumps(said(message, intent, **more)))
    return heard(socket)


def heard(socket: ClientConnection) -> list[Json]:
    """What a socket is told up to the end of a turn."""
    events = [json.loads(socket.recv(timeout=20))]
    while events[-1]["event"] not in LAST:
        events.append(json.loads(socket.recv(timeout=20)))
    return events


def names(events: Iterable[Json]) -> list[str]:
    return [event["event"] for event in events]


def is_whole_turn(events: list[Json], service: Service, call: str) -> bool:
    """Tell whether these are the events of the call's last turn: in order, each once, nothing internal in them."""
    steps = service.http.get(f"/session/{quote(call)}/steps").json()
    expected = {"event": "turn", **answer(call, steps[-1])}
    ids = [tuple(map(int, event["id"].split("-"))) for event in events]
    *before, step, last = events
    return (
        ids == sorted(set(ids))
        and set(names(before)) <= {"state_change", "message_chunk"}
        and before[0]["event"] == "state_change"
        and (step["event"], step["step"]) == ("step", steps[-1])
        and {**last, "id": 0, "session_summary": None} == {**expected, "id": 0}
        and all("turn" not in event for event in events)
    )
