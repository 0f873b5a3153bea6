"""Calls that are kept for a time of their own, beside others on one store; and which version each is on."""

import asyncio
from pathlib import Path

import pytest

from graph.loader import load_flow
from graph.store.errors import Busy, TurnLost
from graph.store.versions import KeptVersion
from nodes.ports import AgentRequest
from server.turn import TurnRequest
from tests.desk import Agents, Desk, Place, call_key, eventually, keys, lives, thread
from tests.test_calls_in_the_store_run_by_themselves import REPORT

MONTH = 2_592_000
INDEX = "flows:index:t"
LASTING, ENDS, MAY_BE_OPEN = (f"flows:{{{INDEX}}}:{part}" for part in ("lasting", "ends", "open"))


async def take(desk: Desk, call: str, intent: str = "greeting", ttl: float | None = MONTH) -> None:
    await desk.turns.run(TurnRequest(call, "ACC-1", "ECI-7", "well?", intent, ttl=ttl))


def test_a_call_has_the_time_it_was_given_from_then_on(shared: Place) -> None:
    async def story() -> None:
        async with shared.desk() as desk:
            await take(desk, "C")
            assert all(MONTH - 60 < left <= MONTH + 60 for left in lives(shared, keys("C")).values())
            await take(desk, "C", "authenticate", ttl=None)
            assert all(MONTH - 60 < left <= MONTH + 60 for left in lives(shared, keys("C")).values())
            await desk.store.calls.abandon(await desk.begin("C"))
            assert all(MONTH - 60 < left <= MONTH + 60 for left in lives(shared, keys("C")).values())
            await take(desk, "C", "refund_request", ttl=1.4)
            assert all(left <= 1 for left in lives(shared, keys("C")).values())

    asyncio.run(story())


def test_a_call_of_its_own_time_goes_when_that_is_over(place: Place) -> None:
    async def story() -> None:
        async with place.desk() as desk:
            await take(desk, "C", ttl=1)
            await take(desk, "D")
            assert await desk.steps("C") == [1]
            await eventually(lambda: desk.steps("C"), [])
            assert await desk.steps("D") == [1]

    asyncio.run(story())


def test_what_lasts_is_named_beside_what_does_not(place: Place) -> None:
    async def story() -> None:
        async with place.desk() as desk:
            await take(desk, "A")
            await take(desk, "B", ttl=None)
            await take(desk, "C")
            await take(desk, "B", "authenticate", ttl=None)
            assert await desk.store.calls.recent("t") == [thread(call) for call in "BCA"]
            await take(desk, "A", "authenticate", ttl=None)
            assert await desk.store.calls.recent("t") == [thread(call) for call in "ABC"]
            await desk.store.calls.delete(thread("A"))
            assert await desk.store.calls.recent("t") == [thread(call) for call in "BC"]

    asyncio.run(story())


def test_what_lasts_stays_named_when_the_others_are_forgotten(shared: Place) -> None:
    async def story() -> None:
        async with shared.desk(ttl=10) as desk:
            await take(desk, "lasting")
            await take(desk, "old", ttl=None)
            with shared.admin() as redis:
                redis.zincrby(INDEX, -71_000, thread("old"))
                redis.zincrby(LASTING, -71_000, thread("lasting"))
            await take(desk, "new", ttl=None)
            assert await desk.store.calls.recent("t") == [thread("new"), thread("lasting")]

    asyncio.run(story())


def test_what_lasted_is_forgotten_when_its_time_is_over(shared: Place) -> None:
    async def story() -> None:
        async with shared.desk() as desk:
            await take(desk, "old")
            with shared.admin() as redis:
                redis.zincrby(ENDS, -(MONTH + 61) * 1000, thread("old"))
                await take(desk, "new")
                assert (redis.zcard(LASTING), redis.zcard(ENDS)) == (1, 1)
            assert all(MONTH <= left <= MONTH + 60 for left in lives(shared, [LASTING, ENDS]).values())

    asyncio.run(story())


def test_a_lasting_call_without_a_turn_is_not_among_those_that_may_be_open(shared: Place) -> None:
    async def story() -> None:
        async with shared.desk() as desk:
            await take(desk, "C")
            await take(desk, "C", "authenticate", ttl=None)
            await desk.store.calls.abandon(await desk.begin("C"))
            with shared.admin() as redis:
                assert (redis.smembers(MAY_BE_OPEN), redis.zrange(INDEX, 0, -1)) == (set(), [])

    asyncio.run(story())


# Turns whose process died


def test_a_first_turn_that_resumes_is_told_of_when_its_process_died(shared: Place) -> None:
    async def story() -> None:
        async with shared.desk() as desk:
            turn = await desk.store.calls.begin(
                thread("C"), said={"input_message": "go"}, version="f 1", resumes=True
            )
            await desk.begin("not resumed")
            assert await desk.store.calls.dead("t") == {}
            for call in ("C", "not resumed"):
                shared.let_lease_run_out(call)
            found = await desk.store.calls.dead("t")
            record = found.pop(thread("C"))
            assert (found, record.version, record.opened and record.opened.token) == ({}, "f 1", turn.token)
            assert record.opened
            assert (record.opened.said["input_message"], record.opened.committed) == ("go", False)

    asyncio.run(story())


def test_one_of_many_takes_over_from_a_turn_that_died(shared: Place) -> None:
    async def story() -> None:
        async with shared.desk() as desk:
            died = await desk.store.calls.begin(thread("C"), version="f 1", resumes=True)
            shared.let_lease_run_out("C")
            begun = await asyncio.gather(
                *(desk.store.calls.begin(thread("C"), resumes=True, died=died.token) for _ in range(8)),
                return_exceptions=True,
            )
            taken = [turn for turn in begun if not isinstance(turn, BaseException)]
            assert [isinstance(turn, Busy) for turn in begun].count(True) == 7
            assert [turn.version for turn in taken] == ["f 1"]
            await desk.store.calls.let_go(taken[0])
            with pytest.raises(Busy):
                await desk.store.calls.begin(thread("C"), resumes=True, died=died.token)
            assert list(await desk.store.calls.dead("t")) == [thread("C")]

    asyncio.run(story())


def test_what_a_dead_turn_committed_is_known(shared: Place, tmp_path: Path) -> None:
    (tmp_path / "report.yaml").write_text(REPORT)
    flow = load_flow(tmp_path / "report.yaml", {})

    async def story() -> None:
        async def lose(request: AgentRequest) -> None:
            await eventually(lambda: desk.steps("R"), [1])
            shared.let_lease_run_out("R")
            found.append(await desk.store.calls.dead("t"))
            await desk.begin("R")

        found: list[object] = []
        async with shared.desk(Agents({"draft": lose}), flow=flow) as desk:
            with pytest.raises(TurnLost):
                await desk.turn("R")
            (dead,) = found
            assert isinstance(dead, dict)
            opened = dead[thread("R")].opened
            assert (opened.committed, opened.said["account_id"]) == (True, "ACC-1")

    asyncio.run(story())


# Versions


def test_how_many_calls_are_on_each_version_is_counted(place: Place) -> None:
    async def story() -> None:
        async with place.desk() as desk:
            key = f"call {load_flow('call', {}).digest}"
            for call in ("A", "B", "C"):
                await take(desk, call, ttl=MONTH if call == "A" else None)
            await desk.store.calls.begin(thread("D"), version="other 1")
            assert await desk.store.calls.on_versions("t") == {key: 3, "other 1": 1}
            assert await desk.store.calls.on_versions("u") == {}
            for intent in ("authenticate", "refund_request", "process_refund", "closing"):
                await take(desk, "B", intent)
            await desk.store.calls.delete(thread("C"))
            assert await desk.store.calls.on_versions("t") == {key: 1, "other 1": 1}
            if place.url is not None:
                with place.admin() as redis:
                    assert not redis.hexists(call_key("B"), "version")

    asyncio.run(story())


def test_versions_are_kept_for_each_tenant(place: Place) -> None:
    one, other = (KeptVersion("desk", digest, "desk.yaml", 1.5, f"flow: {digest}", True) for digest in "ab")

    async def story() -> None:
        async with place.open() as store:
            kept = store.versions
            await kept.put("t", [one])
            await kept.make("t", other)
            await kept.put("u", [])
            assert [await kept.get("t", digest) for digest in "abc"] == [one, other, None]
            assert {version.digest for version in await kept.all("t")} == {"a", "b"}
            assert (await kept.all("u"), await kept.made("u"), await kept.get("u", "a")) == ([], {}, None)
            assert (await kept.made("t"), await kept.made_as("t", "desk")) == ({"desk": "b"}, "b")
            await kept.drop("t", ["a", "never"])
            assert [version.digest for version in await kept.all("t")] == ["b"]
            assert [await kept.unmake("t", "desk") for _ in range(2)] == [True, False]
            assert await kept.made_as("t", "desk") is None

    asyncio.run(story())
