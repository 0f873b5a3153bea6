"""A2A 1.0 as the bench speaks it: whole calls by `SendMessage`, calls that are parked, tasks that are subscribed to.

An answer that is not the expected task is a failure, and a run with failures has no figures.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from time import perf_counter
from typing import Any
from uuid import uuid4

import aiohttp
import orjson

from bench.load import FIVE_TURNS, TURN_SECONDS, Client, Speed, TurnError, new_call_id, speed_of
from bench.processes import Running

COMPLETED, ASKS = "TASK_STATE_COMPLETED", "TASK_STATE_INPUT_REQUIRED"

Task = dict[str, Any]
Expected = Callable[[Task, str, int], bool]
"""Whether a task is the answer in that call at that stage."""


def is_call(task: Task, call_id: str, stage: int) -> bool:
    """The call flow as one task, with an answer of each stage so far; completed at the last."""
    state = COMPLETED if stage == len(FIVE_TURNS) else ASKS
    answers = [artifact["artifactId"] for artifact in task["artifacts"] if artifact["name"] != "session_summary"]
    return (task["contextId"], task["status"]["state"], len(answers)) == (call_id, state, stage)


def is_echo(task: Task, call_id: str, stage: int) -> bool:
    """A completed task for each message, whose one artifact is what was said."""
    said = task["history"][0]["parts"]
    [artifact] = task["artifacts"]
    return (task["contextId"], task["status"]["state"], artifact["parts"]) == (call_id, COMPLETED, said)


class Sender(Client):
    """Takes turns by `SendMessage`, parks calls and subscribes to them."""

    def __init__(self, http: aiohttp.ClientSession, server: Running, expected: Expected) -> None:
        super().__init__(http, server)
        self._url = f"{server.url}/"
        self._expected = expected
        self.answers = self.answered_bytes = 0

    async def turn(self, call_id: str, intent: str, stage: int) -> float:
        """Milliseconds that one message took; raises TurnError unless its task is as expected."""
        body = _request("SendMessage", {"message": _message(call_id, intent)})
        start = perf_counter()
        answer = await self._answer(body)
        took = (perf_counter() - start) * 1000
        self._task(answer, lambda task: self._expected(task, call_id, stage))
        self.answers += 1
        self.answered_bytes += len(answer)
        return took

    async def park(self) -> str:
        """Begin a call, and return the id of its task, which waits for the next message."""
        message = _message(new_call_id(), FIVE_TURNS[0], park=True)
        answer = await self._answer(_request("SendMessage", {"message": message}))
        return str(self._task(answer, lambda task: bool(task["status"]["state"] == ASKS))["id"])

    async def subscribe(self, task_id: str) -> aiohttp.ClientResponse:
        """Return a stream that has sent its task."""
        try:
            reply = await self._http.post(self._url, data=_request("SubscribeToTask", {"id": task_id}))
            line = await reply.content.readline()
        except (aiohttp.ClientError, TimeoutError) as failure:
            raise TurnError(f"{self._name}: {failure!r}") from failure
        self._task(line.removeprefix(b"data:"), lambda task: bool(task["id"] == task_id))
        return reply

    async def _answer(self, body: bytes) -> bytes:
        try:
            async with self._http.post(self._url, data=body) as reply:
                return await reply.read()
        except (aiohttp.ClientError, TimeoutError) as failure:
            raise TurnError(f"{self._name}: {failure!r}") from failure

    def _task(self, answer: bytes, is_right: Callable[[Task], bool]) -> Task:
        try:
            task: Task = orjson.loads(answer)["result"]["task"]
            if is_right(task):
                return task
        except (LookupError, TypeError, ValueError):
            pass
        raise TurnError(f"{self._name} answered {answer[:500]!r}")


def _message(call_id: str, intent: str, **more: bool) -> dict[str, Any]:
    return {
        "messageId": uuid4().hex,
        "role": "ROLE_USER",
        "contextId": call_id,
        "parts": [{"text": "I was charged twice and would like my money back."}],
        "metadata": {"intent": intent, "account_id": "ACC-999", "eci": "ECI-7", **more},
    }


def _request(method: str, params: dict[str, Any]) -> bytes:
    return orjson.dumps({"jsonrpc": "2.0", "id": uuid4().hex, "method": method, "params": params})


@asynccontextmanager
async def sender_to(server: Running, expected: Expected) -> AsyncIterator[Sender]:
    """A sender with as many connections as it needs."""
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=60)
    # No total: an idle stream lives for as long as the bench wants it to.
    timeout = aiohttp.ClientTimeout(sock_connect=TURN_SECONDS, sock_read=TURN_SECONDS)
    headers = {"content-type": "application/json", "A2A-Version": "1.0"}
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, headers=headers) as http:
        yield Sender(http, server, expected)


async def measure(server: Running, expected: Expected, in_flight: int, calls: int) -> tuple[Speed, float]:
    """Drive that many whole calls, so many at a time, after one unmeasured call on each connection.

    Returns the speed, and the mean bytes of an answer.
    """
    async with sender_to(server, expected) as sender:
        speed = await speed_of([server], [sender], in_flight, calls)
        return speed, sender.answered_bytes / sender.answers
