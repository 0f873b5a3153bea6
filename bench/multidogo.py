"""Drives real customer-service calls (MultiDoGO, finance) through a running service, and says what became of them.

    python -m bench.multidogo PATH/finance_calls.jsonl --url http://127.0.0.1:8000 [--without-intents] [--calls N]

With intents, each sentence carries the nearest of ours for its label; without, the service classifies it. Real
callers do not keep to five stages: what they say before its time is refused (409) or answered by the fallback, and
the driver says it again when the call has come to it, as a caller does who is asked once more.
"""

import argparse
import asyncio
import json
import time
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import aiohttp

CAPTURED_BY = {
    "disputecharge": "refund_request",
    "reportlostcard": "complaint",
    "replacecard": "complaint",
    "updateaddress": "account_inquiry",
    "closeaccount": "account_inquiry",
    "openaccount": "account_inquiry",
    "getroutingnumber": "account_inquiry",
    "checkoffereligibility": "account_inquiry",
    "requestcreditlimitincrease": "account_inquiry",
    "checkbalance": "balance_inquiry",
    "transfermoney": "billing_inquiry",
    "orderchecks": "booking_request",
}
FULFILLED_BY = {
    "refund_request": "process_refund",
    "complaint": "resolve_complaint",
    "account_inquiry": "update_account",
    "balance_inquiry": "check_balance",
    "billing_inquiry": "process_payment",
    "booking_request": "confirm_booking",
}
GREETING, AUTHENTICATION, CAPTURE, FULFILLMENT, CLOSING = 1, 2, 3, 4, 5


@dataclass
class Tally:
    """What became of the calls."""

    calls: int = 0
    completed: int = 0
    turns: int = 0
    ended_at: Counter[int] = field(default_factory=Counter)
    answers: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)

    def print(self, title: str) -> None:
        """Print the tally."""
        self.latencies.sort()
        p50, p99 = (self.latencies[int(len(self.latencies) * part)] * 1000 for part in (0.5, 0.99))
        print(f"{title}: {self.calls} calls, {self.completed} completed, {self.turns} turns")
        print(f"  {self.turns / self.seconds:.0f} turns/s, p50 {p50:.1f} ms, p99 {p99:.1f} ms")
        print(f"  the callers who were not done hung up at stage: {dict(sorted(self.ended_at.items()))}")
        for answer, count in self.answers.most_common():
            print(f"  {count:6} {answer}")


@dataclass
class Call:
    """One call under way: where it stands, as the service said last."""

    client: aiohttp.ClientSession
    url: str
    tally: Tally
    intents: bool
    name: str = field(default_factory=lambda: f"DOGO-{uuid.uuid4().hex[:12]}")
    stage: int = GREETING
    captured: str = ""
    complete: bool = False

    async def say(self, message: str, intent: str) -> bool:
        """Take one turn; tell whether it was understood where the call stands."""
        sent = {"call_identify_id": self.name, "account_id": "ACC-1", "eci": "ECI-1", "input_message": message}
        started = time.perf_counter()
        async with self.client.post(
            f"{self.url}/orchestrate", json=sent | ({"intent": intent} if self.intents else {})
        ) as got:
            told = await got.json(content_type=None)
        self.tally.turns += 1
        self.tally.latencies.append(time.perf_counter() - started)
        self.tally.answers[_kind(got.status, told)] += 1
        if got.status != 200:
            return False
        self.stage, self.complete = told["next_flow_id"] or CLOSING, told["is_complete"]
        if told["intent_flow_id"] == CAPTURE and told["intent"] in FULFILLED_BY:
            self.captured = told["intent"]
        return bool(told["agent"] != "fallback")


def intent_of(label: str, call: Call) -> str:
    """Return the nearest of our intents to a label of MultiDoGO."""
    label = label.split("<div>")[0]
    if label == "openinggreeting":
        return "greeting"
    if label in CAPTURED_BY:
        return CAPTURED_BY[label]
    if label in ("thankyou", "closinggreeting", "rejection"):
        return "closing"
    if label in ("contentonly", "confirmation"):
        return FULFILLED_BY[call.captured] if call.stage == FULFILLMENT else "verify_identity"
    return "unknown"


async def converse(call: Call, conversation: dict[str, Any]) -> None:
    """Say each sentence; what was refused or not understood is said again when the call has come to it."""
    held: list[tuple[str, str]] = []
    for number, (text, label) in enumerate(_sentences(conversation)):
        if number == 0 and label != "openinggreeting":
            await call.say(text, "greeting")  # the first words open the call, whatever they are
        if call.complete or await call.say(text, intent_of(label, call)):
            held = await _again(call, held)
        else:
            held.append((text, label))
    await _again(call, held)


async def _again(call: Call, held: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Say again what was held back and is of use now: one thing for each stage reached."""
    for text, label in list(held):
        wanted = {CAPTURE: CAPTURED_BY.get(label), AUTHENTICATION: "verify_identity", CLOSING: "closing"}
        if not call.complete and intent_of(label, call) == wanted.get(call.stage):
            held.remove((text, label))
            await call.say(text, intent_of(label, call))
    return held


def _sentences(conversation: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for turn in conversation["turns"]:
        for sentence in turn["sentences"]:
            yield sentence["text"], sentence["intent"]


def _kind(status: int, told: dict[str, Any]) -> str:
    if status != 200:
        return f"{status} {told.get('type')}"
    if told["agent"] == "fallback":
        return "200 answered by the fallback"
    state = told["response"].get("task_state", "message")
    return f"200 {told['status']} ({state if told['status'] == 'success' else told['response']['error']['type']})"


async def drive(path: Path, url: str, *, intents: bool, calls: int, at_once: int) -> Tally:
    """Drive the calls of the file, `at_once` of them in flight, and return the tally."""
    tally = Tally()
    gate = asyncio.Semaphore(at_once)
    async with aiohttp.ClientSession() as client:

        async def one(conversation: dict[str, Any]) -> None:
            async with gate:
                call = Call(client, url, tally, intents)
                await converse(call, conversation)
                tally.calls += 1
                tally.completed += call.complete
                tally.ended_at.update([] if call.complete else [call.stage])

        started = time.perf_counter()
        await asyncio.gather(*map(one, _read(path, calls)))
        tally.seconds = time.perf_counter() - started
    return tally


def _read(path: Path, calls: int) -> Iterable[dict[str, Any]]:
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in islice(lines, calls)]


def main() -> None:
    """Read the command line and drive."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--without-intents", action="store_true")
    parser.add_argument("--calls", type=int, default=1000)
    parser.add_argument("--at-once", type=int, default=16)
    given = parser.parse_args()
    intents = not given.without_intents
    tally = asyncio.run(drive(given.path, given.url, intents=intents, calls=given.calls, at_once=given.at_once))
    tally.print("with intents" if intents else "without intents")


if __name__ == "__main__":
    main()
