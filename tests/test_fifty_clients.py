"""Fifty clients send turns of one call at once, to two replicas: its history is one line, and nothing is lost."""

import asyncio
import json
from typing import Any

import httpx
import pytest
from httpx_aiohttp import AiohttpTransport

from graph.store.names import thread_name
from tests.background import Background
from tests.conftest import Service, StartService
from tests.replicas import SHARED, replicas

CLIENTS = 50


@pytest.mark.parametrize("store", SHARED)
@pytest.mark.parametrize("busy_wait", [0.1, 10.0])
def test_fifty_turns_at_once(
    request: pytest.FixtureRequest, start: StartService, background: Background, store: str, busy_wait: float
) -> None:
    both = replicas(request, start, store, {}, busy_wait_seconds=busy_wait)
    both.here.turn("C", "hello", "greeting")

    told = asyncio.run(all_at_once([both.here, both.there]))

    answered = {body["step"]: (client, body) for client, (status, body) in enumerate(told) if status == 200}
    refused = [(status, body["type"]) for status, body in told if status != 200]
    assert len(answered) + len(refused) == CLIENTS
    assert set(refused) <= {(409, "turn-in-flight")}
    assert answered if busy_wait < 1 else not refused

    trail = both.there.http.get("/session/C/steps").json()
    assert [step["number"] for step in trail] == list(range(1, len(answered) + 2))
    for step in trail[1:]:
        client, body = answered[step["number"]]
        assert (step["input_message"], step["response_data"]) == (f"client {client}", body["response"])
    assert background.run(line_of(both.here, "C")) == list(range(len(trail), 0, -1))


async def all_at_once(services: list[Service]) -> list[tuple[int, dict[str, Any]]]:
    """What each of the clients is told, every other one by the other service."""
    async with httpx.AsyncClient(transport=AiohttpTransport(), timeout=60) as http:

        async def turn(number: int) -> tuple[int, dict[str, Any]]:
            said = {"call_identify_id": "C", "account_id": "ACC-1", "eci": "ECI-7", "intent": "unknown"}
            said["input_message"] = f"client {number}"
            url = services[number % len(services)].url
            answer = await http.post(f"{url}/orchestrate", json=said, headers={"idempotency-key": str(number)})
            return answer.status_code, json.loads(answer.content)

        return await asyncio.gather(*(turn(number) for number in range(CLIENTS)))


async def line_of(service: Service, call: str) -> list[int]:
    """The steps there were at each checkpoint, from the newest back, each the parent of the one before."""
    thread = thread_name(service.runtime.settings.tenant, call)
    saver, numbers = service.runtime.store.saver, []
    config: Any = {"configurable": {"thread_id": thread}}
    while config is not None:
        found = await saver.aget_tuple(config)
        assert found is not None
        numbers.append(found.checkpoint["channel_values"]["step_count"])
        config = found.parent_config
    return numbers
