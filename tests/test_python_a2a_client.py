"""The client of `a2a-sdk` itself against the call flow: in 1.0, and as it speaks to agents of 0.3."""

import asyncio
import uuid
from collections.abc import Awaitable, Iterable
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from a2a.client import Client, ClientConfig, ClientFactory
from a2a.helpers import new_text_part
from a2a.types import (
    CancelTaskRequest,
    GetTaskRequest,
    ListTasksRequest,
    Message,
    Part,
    Role,
    SendMessageRequest,
    StreamResponse,
    Task,
    TaskState,
)
from a2a.utils.errors import A2AError

from tests.client_story import TURNS, outcome
from tests.conftest import StartService

KINDS = {"task": "task", "status_update": "status-update", "artifact_update": "artifact-update"}


@dataclass(frozen=True)
class Clients:
    """Two clients of one agent: which way a message is sent is told when a client is made."""

    answering: Client
    streaming: Client

    async def send(self, message: Message) -> Task:
        (answer,) = [answer async for answer in self.answering.send_message(SendMessageRequest(message=message))]
        return answer.task

    async def stream(self, message: Message) -> list[list[str]]:
        sent = SendMessageRequest(message=message)
        return [_in_short(event) async for event in self.streaming.send_message(sent)]

    async def get(self, task_id: str, history_length: int | None = None) -> Task:
        return await self.answering.get_task(GetTaskRequest(id=task_id, history_length=history_length))

    async def cancel(self, task_id: str) -> Task:
        return await self.answering.cancel_task(CancelTaskRequest(id=task_id))


@pytest.mark.parametrize("version", ["1.0", "0.3"])
def test_the_sdks_own_client_plays_the_story(start: StartService, version: str) -> None:
    service = start(checkpointer="memory")

    played = asyncio.run(play(service.url, version))

    assert played == outcome(listed=version == "1.0")


async def play(url: str, version: str) -> dict[str, Any]:
    """Play the story and return what was seen of it."""
    async with httpx.AsyncClient(timeout=30) as http:
        clients = Clients(
            answering=await _discovered(url, version, ClientConfig(httpx_client=http, streaming=False)),
            streaming=await _discovered(url, version, ClientConfig(httpx_client=http)),
        )
        turns, task = await _whole_call(clients)
        shortened, whole = await clients.get(task.id, 2), await clients.get(task.id)
        told = {
            "card": await _card(http, url, version),
            "turns": turns,
            "shortened": [_text(message.parts) for message in shortened.history],
            "history": [[_role(message), _text(message.parts)] for message in whole.history],
            "ended": await _refusal(clients.send(_message("greeting", "Hello again", task))),
            "cancelled": await _cancelled_call(clients),
        }
        if version == "1.0":
            listed = await clients.answering.list_tasks(ListTasksRequest(context_id=task.context_id))
            told["listed"] = [[found.id == task.id, _state(found)] for found in listed.tasks]
    return told


async def _discovered(url: str, version: str, config: ClientConfig) -> Client:
    asked = {"headers": {"A2A-Version": version}}
    return await ClientFactory(config).create_from_url(url, resolver_http_kwargs=asked)


async def _card(http: httpx.AsyncClient, url: str, version: str) -> dict[str, Any]:
    card = (await http.get(f"{url}/.well-known/agent-card.json", params={"A2A-Version": version})).json()
    return {"name": card["name"], "skill": card["skills"][0]["id"], "streaming": card["capabilities"]["streaming"]}


async def _whole_call(clients: Clients) -> tuple[list[dict[str, Any]], Task]:
    turns: list[dict[str, Any]] = []
    task: Task | None = None
    for intent, words, streamed in TURNS:
        message, events = _message(intent, words, task), None
        if streamed and task:
            events = await clients.stream(message)
            now = await clients.get(task.id)
        else:
            now = await clients.send(message)
        same = task is None or (now.id, now.context_id) == (task.id, task.context_id)
        turns.append({**_told(now), "same": same, "events": events})
        task = now
    assert task is not None
    return turns, task


async def _cancelled_call(clients: Clients) -> list[str]:
    task = await clients.send(_message("greeting", "Hello"))
    cancelled = await clients.cancel(task.id)
    return [_state(cancelled), await _refusal(clients.cancel(task.id)), await _refusal(clients.get("no-such-task"))]


def _message(intent: str, words: str, task: Task | None = None) -> Message:
    message = Message(message_id=str(uuid.uuid4()), role=Role.ROLE_USER, parts=[new_text_part(words)])
    message.metadata.update({"intent": intent, "account_id": "ACC-1", "eci": "ECI-7"})
    if task:
        message.task_id, message.context_id = task.id, task.context_id
    return message


def _in_short(event: StreamResponse) -> list[str]:
    kind = event.WhichOneof("payload") or ""
    if kind == "artifact_update":
        artifact = event.artifact_update.artifact
        return [KINDS[kind], artifact.artifact_id.split("-")[0], _text(artifact.parts)]
    return [KINDS[kind], _state(event.task if kind == "task" else event.status_update)]


def _told(task: Task) -> dict[str, Any]:
    said = _text(task.status.message.parts) if task.status.HasField("message") else None
    return {"state": _state(task), "said": said, "made": [_text(artifact.parts) for artifact in task.artifacts]}


def _state(of: Any) -> str:
    return str(TaskState.Name(of.status.state)).removeprefix("TASK_STATE_").lower().replace("_", "-")


def _role(message: Message) -> str:
    return str(Role.Name(message.role)).removeprefix("ROLE_").lower()


def _text(parts: Iterable[Part]) -> str:
    return "".join(part.text for part in parts)


async def _refusal(request: Awaitable[Any]) -> str:
    try:
        await request
    except A2AError as error:
        return type(error).__name__
    return "not refused"
