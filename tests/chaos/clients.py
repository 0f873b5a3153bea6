"""Clients as they are: each turn has a key, and is sent until it is answered, to either replica, at times to both."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
import orjson

from tests.chaos.processes import Replica
from tests.chaos.world import World

STORY = ("greet", "refund", "credit", "book", "close")
"""The intents of a call, in order."""
_AGAIN = ("turn-in-flight", "turn-lost", "store-unavailable", "out-of-time", "outcome-unknown")
"""Problems after which a client sends the same message under the same key."""
_REQUEST_SECONDS = 8.0
_LONGEST_PAUSE = 0.5
_SURELY_ACCEPTED = 0.2
"""Seconds after which a replica has accepted what was sent to it."""


@dataclass(frozen=True)
class Answer:
    """A turn that was answered with 200."""

    call: str
    key: str
    said: str
    body: Mapping[str, Any]
    began: float
    ended: float
    """When it was sent first, and when its answer came, on the monotonic clock."""


@dataclass
class Heard:
    """What the clients of a run heard."""

    answers: list[Answer] = field(default_factory=list)
    """One for each key, in the order of each call."""
    wrong: list[str] = field(default_factory=list)
    """Answers that nobody should get."""
    refused: Counter[str] = field(default_factory=Counter)
    """Why turns had to be sent again, by the type of the problem; `no answer` if there was none."""
    doubled: int = 0
    """Turns that were sent twice at once."""
    repeated: int = 0
    """Answers that were given once more."""


@dataclass
class Client:
    """Somebody who makes calls."""

    world: World
    heard: Heard
    dice: random.Random
    doubles: float = 0.0
    """How likely a turn is sent to both replicas at once."""
    asides: float = 0.0
    """How likely somebody whose write is parked says something else meanwhile."""
    replicas: Sequence[Replica] = ()
    """Those it knows; all if it is told of none."""

    async def make_call(self, call: str) -> None:
        """Make a call from its greeting to its end."""
        for intent in STORY:
            await self.want(call, intent)

    async def want(self, call: str, intent: str, **metadata: Any) -> Mapping[str, Any]:
        """Want something until it is done: a turn that failed is taken again under another key."""
        attempt = 0
        while True:
            attempt += 1
            body = await self.turn(call, f"{intent}-{attempt}", intent, **metadata)
            if body["status"] == "success":
                return body
            error = body["response"]["error"]
            if not error["retryable"]:
                self.heard.wrong.append(f"{call}: {intent} may not be tried again: {error}")
            await self._pause(attempt)

    async def turn(self, call: str, name: str, intent: str, **metadata: Any) -> Mapping[str, Any]:
        """Take one turn, however often it has to be sent, and return its answer."""
        attempt, began = 0, time.monotonic()
        while True:
            attempt += 1
            told = await self.send(call, name, intent, **metadata)
            body = next((body for status, body in told if status == 200), None)
            if body is not None:
                key = f"{call}/{name}"
                self.heard.answers.append(Answer(call, key, _said(key), body, began, time.monotonic()))
                return body
            waits = intent != "unknown" and any(_is_parked(body) for _, body in told)
            if waits and self.dice.random() < self.asides:
                await self.turn(call, f"aside-{name}-{attempt}", "unknown")
            await self._pause(attempt)

    async def send(self, call: str, name: str, intent: str, **metadata: Any) -> list[tuple[int, Mapping[str, Any]]]:
        """Send a turn's message to a replica, or to both at once; return the answers there were."""
        key = f"{call}/{name}"
        sent = {
            "call_identify_id": call,
            "account_id": "ACC-1",
            "eci": "ECI-7",
            "intent": intent,
            "input_message": _said(key),
            "metadata": metadata,
        }
        told = await self._sent("/orchestrate", key, sent)
        answers = [body for status, body in told if status == 200]
        self.heard.repeated += len(answers) - 1 if answers else 0
        if any(body != answers[0] for body in answers):
            self.heard.wrong.append(f"{key}: two answers under one key: {answers}")
        return told

    async def make_run(self, name: str) -> None:
        """Have a flow run that goes by itself, and send for it until it is completed."""
        attempt = 1
        while True:
            key = f"{name}/{attempt}"
            sent = {"id": name, "message": _said(key)}
            told = await self._sent("/flows/chaos_run/runs", key, sent)
            found = next((body for status, body in told if status == 200), None)
            if found is not None and found["status"] == "completed":
                return
            if found is not None and found["status"] == "failed":
                attempt += 1
                if not found["error"]["retryable"]:
                    self.heard.wrong.append(f"{name} may not be tried again: {found['error']}")
            await self._pause(attempt)

    async def _sent(self, path: str, key: str, sent: Mapping[str, Any]) -> list[tuple[int, Mapping[str, Any]]]:
        """Send something to a replica, or to both at once; return the answers there were."""
        urls = [replica.url for replica in self.replicas or self.world.replicas]
        self.dice.shuffle(urls)
        if self.dice.random() >= self.doubles:
            del urls[1:]
        else:
            self.heard.doubled += 1
        told = [
            one
            for one in await asyncio.gather(*(self._post(f"{url}{path}", key, sent) for url in urls))
            if one is not None
        ]
        self._note(key, told)
        return told

    async def repeat(self, answer: Answer) -> None:
        """Send an answered turn's message once more, and note if it is answered otherwise now."""
        name, intent = answer.key.removeprefix(f"{answer.call}/"), answer.body["intent"]
        told = [body for status, body in await self.send(answer.call, name, intent) if status == 200]
        self.heard.repeated += len(told)
        if told != [answer.body]:
            self.heard.wrong.append(f"{answer.key}: answered {answer.body} first, and {told} later")

    async def _post(self, url: str, key: str, sent: Mapping[str, Any]) -> tuple[int, Mapping[str, Any]] | None:
        headers = {"idempotency-key": key, "content-type": "application/json"}
        began = time.monotonic()
        try:
            async with asyncio.timeout(_REQUEST_SECONDS):
                answer = await self.world.http.post(url, content=orjson.dumps(sent), headers=headers)
        except (httpx.HTTPError, TimeoutError) as error:
            self.heard.refused["no answer"] += 1
            if not isinstance(error, TimeoutError) and began + _SURELY_ACCEPTED < self.world.told_to_end_at(url):
                self.heard.wrong.append(f"{key}: not answered by a replica that was only told to end: {error!r}")
            return None
        if not answer.headers.get("content-type", "").endswith("json"):
            self.heard.wrong.append(f"{key}: {answer.status_code} without a document: {answer.text!r}")
            return None
        return answer.status_code, orjson.loads(answer.content)

    def _note(self, key: str, told: list[tuple[int, Mapping[str, Any]]]) -> None:
        """Note why it has to be sent again, and what nobody should hear."""
        for status, body in told:
            if status != 200:
                self.heard.refused[str(body.get("type"))] += 1
                if body.get("type") not in _AGAIN:
                    self.heard.wrong.append(f"{key}: {status} {orjson.dumps(body).decode()}")

    async def _pause(self, attempt: int) -> None:
        await asyncio.sleep(self.dice.uniform(0.02, min(_LONGEST_PAUSE, 0.05 * 2**attempt)))


def _said(key: str) -> str:
    return f"I want {key}"


def _is_parked(body: Mapping[str, Any]) -> bool:
    return body.get("type") == "outcome-unknown"
