"""A call takes one turn at a time, whoever sends them."""

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tests.conftest import StartService
from tests.puppet import Puppet

Store = dict[str, Any]


def test_a_second_turn_waits_and_is_then_refused(
    start: StartService, store: Store, puppet: tuple[Puppet, str]
) -> None:
    service = start({"GREETING_AGENT_URL": puppet[1]}, busy_wait_seconds=0.2, **store)

    with ThreadPoolExecutor(2) as pool:
        slow = pool.submit(service.turn, "BUSY-1", "slow 1.5", "greeting")
        while not puppet[0].messages and not slow.done():
            time.sleep(0.01)
        refused = service.turn("BUSY-1", "hello", "greeting")

    assert (refused.status_code, refused.json()["type"]) == (409, "turn-in-flight")
    assert refused.headers["retry-after"] == "1"
    assert slow.result().json()["status"] == "success"
    assert len(puppet[0].messages) == 1


def test_a_second_turn_that_waits_long_enough_is_taken(
    start: StartService, store: Store, puppet: tuple[Puppet, str]
) -> None:
    service = start({"FALLBACK_AGENT_URL": puppet[1]}, **store)

    with ThreadPoolExecutor(10) as pool:
        told = [
            job.result() for job in [pool.submit(service.turn, "BUSY-2", "slow 0.02", "unknown") for _ in range(10)]
        ]

    assert [answer.status_code for answer in told] == [200] * 10
    assert sorted(answer.json()["step"] for answer in told) == list(range(1, 11))
    trail = service.http.get("/session/BUSY-2/steps").json()
    assert [step["number"] for step in trail] == list(range(1, 11))


def test_a_busy_call_is_not_deleted(start: StartService, store: Store, puppet: tuple[Puppet, str]) -> None:
    service = start({"GREETING_AGENT_URL": puppet[1]}, busy_wait_seconds=0.1, **store)

    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(service.turn, "BUSY-3", "slow 1", "greeting")
        while not puppet[0].messages and not slow.done():
            time.sleep(0.01)
        refused = service.http.delete("/session/BUSY-3")

    assert (refused.status_code, refused.json()["type"]) == (409, "turn-in-flight")
    assert slow.result().json()["status"] == "success"
    assert service.http.get("/session/BUSY-3").status_code == 200


def test_different_calls_do_not_wait_for_each_other(start: StartService, store: Store) -> None:
    service = start(**store)

    with ThreadPoolExecutor(32) as pool:
        jobs = [pool.submit(service.turn, f"BUSY-4-{number}", "hello", "greeting") for number in range(64)]

    assert {job.result().json()["next_flow_id"] for job in jobs} == {2}
