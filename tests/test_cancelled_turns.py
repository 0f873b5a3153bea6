"""A turn that is cancelled, or whose save is not confirmed, leaves the call whole and its lease free."""

import asyncio
from typing import Any

import pytest

from server.turn import TurnRequest
from tests.background import Background
from tests.conftest import Service, StartService
from tests.puppet import Puppet


def hello(call: str, words: str) -> TurnRequest:
    return TurnRequest(call, "ACC-1", "ECI-7", words, "greeting")


async def cancelled_after(service: Service, request: TurnRequest, seconds: float) -> None:
    turn = asyncio.ensure_future(service.runtime.turns.run(request))
    await asyncio.sleep(seconds)
    turn.cancel()
    with pytest.raises(asyncio.CancelledError):
        await turn


def test_a_turn_cancelled_while_its_agent_works_saves_nothing(
    start: StartService, store: dict[str, Any], puppet: tuple[Puppet, str], background: Background
) -> None:
    service = start({"GREETING_AGENT_URL": puppet[1]}, busy_wait_seconds=0, **store)

    background.run(cancelled_after(service, hello("GONE", "slow 1"), 0.3))

    assert service.http.get("/session/GONE").status_code == 404
    assert service.turn("GONE", "hello", "greeting").json()["step"] == 1


@pytest.mark.parametrize("store", ["embedded", "valkey"], indirect=True)
def test_a_turn_cancelled_during_its_save_is_saved_before_the_lease_is_free(
    start: StartService, store: dict[str, Any], puppet: tuple[Puppet, str], background: Background
) -> None:
    service = start({"GREETING_AGENT_URL": puppet[1]}, **store)

    background.run(cancelled_during_its_save(service, hello("SAVED", "hello")))

    assert [step["number"] for step in service.http.get("/session/SAVED/steps").json()] == [1]
    assert service.turn("SAVED", "123456", "verify_identity").json()["step"] == 2


async def cancelled_during_its_save(service: Service, request: TurnRequest) -> None:
    """Cancel the turn while its commit, the store's own, is held up on its way."""
    calls: Any = service.runtime.store.calls
    commit, under_way = calls.commit, asyncio.Event()

    async def held_up(*arguments: Any, **options: Any) -> None:
        under_way.set()
        await asyncio.sleep(0.2)
        await commit(*arguments, **options)

    calls.commit = held_up
    turn = asyncio.ensure_future(service.runtime.turns.run(request))
    await under_way.wait()
    turn.cancel()
    with pytest.raises(asyncio.CancelledError):
        await turn
    calls.commit = commit
