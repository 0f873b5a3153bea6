"""The life of a call in every store: a turn is begun, committed or abandoned, and whatever goes wrong in between
leaves the call as its last commit left it."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from langgraph.checkpoint.base import empty_checkpoint
from redis import Redis

from graph.builder import CallGraph, build_graph
from graph.flow import Flow
from graph.loader import load_flow
from graph.routing import Refused, routes_of
from graph.store.calls import OpenTurn, new_steps
from graph.store.embedded import embedded_store
from graph.store.errors import Busy, StoreUnavailable, TurnLost
from graph.store.names import decode, encode, tag_of, thread_name, thread_of
from graph.store.opening import Choice, Store, open_store
from graph.store.redis_calls import RedisCalls, keys_of
from nodes.ports import AgentRequest, Reply
from server.turns import TurnRequest, Turns
from tests.redis_stack import redis_stack, valkey

FIVE_TURNS = ("greeting", "verify_identity", "refund_request", "process_refund", "closing")
MARKER = "flows:checkpointer"
PATIENCE = 10.0

REPORT = """
flow: report
agents: {facts: {url: "http://facts"}, draft: {url: "http://draft"}, check: {url: "http://check"}}
stages:
  gather: {agent: facts}
  write: {agent: draft}
  review: {agent: check}
"""

Behaviour = Callable[[AgentRequest], Any]


@dataclass
class Agents:
    """Agents in this process: they repeat what they hear, unless told otherwise."""

    told: dict[str, Behaviour] = field(default_factory=dict)
    heard: list[str] = field(default_factory=list)

    async def call(self, request: AgentRequest) -> Reply:
        self.heard.append(request.agent)
        if request.agent in self.told:
            await self.told[request.agent](request)
        return Reply(f"{request.agent} heard {request.text}", data=({"pounds": 1.5, "ok": True, "none": None},))


@dataclass
class Desk:
    """A store with agents and a flow around it: what a service is made of."""

    store: Store
    agents: Agents
    graph: CallGraph
    turns: Turns

    async def turn(self, call: str, intent: str | None = None, message: str = "well?") -> dict[str, Any]:
        return await self.turns.run(TurnRequest(call, "ACC-1", "ECI-7", message, intent))

    async def begin(self, call: str) -> OpenTurn:
        return await self.store.calls.begin(thread(call))

    async def run(self, turn: OpenTurn, intent: str) -> None:
        """Run the graph for a turn and finish it, without what else surrounds a turn."""
        said = {"input_message": "well?", "intent": intent, "incarnation": turn.incarnation}
        state = await self.graph.ainvoke(said, turn.config(), durability="exit")  # type: ignore[call-overload]
        await self.store.calls.finish(turn, new_steps(turn, state), complete=bool(state["is_complete"]))

    async def steps(self, call: str) -> list[int]:
        record = await self.store.calls.read(thread(call))
        return [step["number"] for step in record.steps] if record else []


@dataclass
class Place:
    """A store to open, several times if need be, and a view of its server's keys."""

    choice: Choice
    url: str | None = None
    memory: Store | None = None

    @asynccontextmanager
    async def desk(
        self, agents: Agents | None = None, *, flow: Flow | None = None, ttl: int = 3600, url: str | None = None
    ) -> AsyncIterator[Desk]:
        flow, agents = flow or load_flow("call", {}), agents or Agents()
        async with self.open(ttl, url) as store:
            graph = build_graph(flow, caller=agents, checkpointer=store.saver)
            turns = Turns(graph, routes_of(flow), store.calls, tenant="t", turn_timeout=PATIENCE, busy_wait=0)
            yield Desk(store, agents, graph, turns)

    def open(self, ttl: int = 3600, url: str | None = None) -> AbstractAsyncContextManager[Store]:
        return open_store(choice=self.choice, url=url or self.url, ttl=ttl)

    def keys(self) -> set[str]:
        """All keys but the marker; none in memory."""
        if self.url is None:
            return set()
        with self.admin() as redis:
            return {key.decode() for key in redis.scan_iter()} - {MARKER}

    def admin(self) -> Redis:
        assert self.url is not None
        return Redis.from_url(self.url)

    def let_lease_run_out(self, call: str) -> None:
        with self.admin() as redis:
            redis.hset(call_key(call), "lease", 1)


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with ExitStack() as stack:
        plain = stack.enter_context(valkey(tmp_path_factory.mktemp("valkey")))
        able = stack.enter_context(redis_stack(tmp_path_factory.mktemp("stack")))
        yield {"core": plain, "core-on-stack": able, "langgraph-redis": able}


def place_of(name: str, servers: dict[str, str]) -> Place:
    if name == "memory":
        return Place("memory")
    with Redis.from_url(servers[name]) as redis:
        redis.flushall()
    return Place("langgraph-redis" if name == "langgraph-redis" else "core", servers[name])


@pytest.fixture(params=["core", "core-on-stack", "langgraph-redis", "memory"])
def place(request: pytest.FixtureRequest, servers: dict[str, str]) -> Place:
    return place_of(request.param, servers)


@pytest.fixture(params=["core", "langgraph-redis"])
def shared(request: pytest.FixtureRequest, servers: dict[str, str]) -> Place:
    """A store that processes share, so that leases run out and keys can be seen."""
    return place_of(request.param, servers)


@pytest.fixture
def core(servers: dict[str, str]) -> Place:
    return place_of("core", servers)


@pytest.fixture
def report(tmp_path: Path) -> Flow:
    """A flow that runs by itself, three stages in one run."""
    file = tmp_path / "report.yaml"
    file.write_text(REPORT)
    return load_flow(file, {})


# A whole call


def test_a_call_is_kept_turn_by_turn(place: Place) -> None:
    async def story() -> None:
        async with place.desk() as desk:
            for number, intent in enumerate(FIVE_TURNS, start=1):
                told = await desk.turn("C", intent)
                assert (told["step"], told["status"]) == (number, "success")
            assert [step["number"] for step in told["session_summary"]["steps"]] == [1, 2, 3, 4, 5]
            record = await desk.store.calls.read(thread("C"))
            moments = await desk.store.calls.history(thread("C"))
        assert record is not None
        assert [(step["number"], step["intent"]) for step in record.steps] == list(enumerate(FIVE_TURNS, start=1))
        assert [moment.state["step_count"] for moment in moments] == [1, 2, 3, 4, 5]
        assert [moment.state["completed_flows"] for moment in moments][1:3] == [[1, 2], [1, 2, 3]]
        assert sorted(moment.saved_at for moment in moments) == [moment.saved_at for moment in moments]
        assert moments[-1].state == record.state

    asyncio.run(story())


def test_another_process_goes_on_where_the_first_stopped(shared: Place) -> None:
    async def turn(intent: str) -> dict[str, Any]:
        async with shared.desk() as desk:
            return await desk.turn("C", intent)

    told = [asyncio.run(turn(intent)) for intent in FIVE_TURNS]
    assert [answer["step"] for answer in told] == [1, 2, 3, 4, 5]
    assert told[-1]["session_summary"]["completed_flows"] == [1, 2, 3, 4, 5]


def test_the_embedded_store_keeps_a_call_over_a_restart(tmp_path: Path) -> None:
    async def turn(intent: str) -> dict[str, Any]:
        async with embedded_store(tmp_path / "flows") as embedded, Place("core", embedded.url).desk() as desk:
            return await desk.turn("C", intent)

    assert [asyncio.run(turn(intent))["step"] for intent in FIVE_TURNS[:2]] == [1, 2]


def test_everything_kept_is_plain_json(place: Place) -> None:
    async def story() -> list[Any]:
        async with place.desk() as desk:
            for intent in FIVE_TURNS:
                await desk.turn("C", intent, "Grüße, “Ünï” 👋\u2028")
            record = await desk.store.calls.read(thread("C"))
            assert record is not None
            moments = await desk.store.calls.history(thread("C"))
            return [record.state, record.steps, [moment.state for moment in moments]]

    kept = asyncio.run(story())
    assert json.loads(json.dumps(kept)) == kept
    assert kept[1][0]["input_message"] == "Grüße, “Ünï” 👋\u2028"
    assert kept[1][0]["response_data"]["data"] == [{"pounds": 1.5, "ok": True, "none": None}]


def test_what_belongs_to_a_turn_ends_with_it(place: Place) -> None:
    async def story() -> None:
        async with place.desk() as desk:
            await desk.turn("C", "greeting", "hello")
            record = await desk.store.calls.read(thread("C"))
            assert record is not None
            assert not {"input_message", "intent", "intent_source", "metadata", "steps"} & set(record.state)
            told = await desk.turn("C", None, "zzz")
            assert (told["agent"], told["intent"]) == ("fallback", "unknown")

    asyncio.run(story())


def test_sixty_four_calls_at_once(place: Place) -> None:
    async def story() -> None:
        async with place.desk() as desk:
            calls = [f"C-{number}" for number in range(64)]
            for intent in FIVE_TURNS[:2]:
                await asyncio.gather(*(desk.turn(call, intent) for call in calls))
            assert [await desk.steps(call) for call in calls] == [[1, 2]] * 64

    asyncio.run(story())


# One turn at a time


def test_a_new_call_that_is_abandoned_leaves_no_trace(place: Place) -> None:
    async def story() -> None:
        async with place.desk() as desk:
            before = place.keys()
            turn = await desk.begin("C")
            assert (turn.loaded, turn.state) == (None, {})
            await desk.store.calls.abandon(turn)
            with pytest.raises(Refused):
                await desk.turn("C", "process_refund")
            assert await desk.store.calls.read(thread("C")) is None
            assert await desk.store.calls.history(thread("C")) == []
            assert place.keys() == before

    asyncio.run(story())


def test_a_refused_turn_changes_nothing(place: Place) -> None:
    async def story() -> None:
        async with place.desk() as desk:
            await desk.turn("C", "greeting")
            before, keys = await desk.store.calls.read(thread("C")), place.keys()
            with pytest.raises(Refused):
                await desk.turn("C", "process_refund")
            assert await desk.store.calls.read(thread("C")) == before
            assert place.keys() == keys
            assert (await desk.turn("C", "authenticate"))["step"] == 2

    asyncio.run(story())


def test_a_second_turn_is_busy_until_the_first_ends(place: Place) -> None:
    async def story() -> None:
        async with place.desk() as desk:
            for intent in FIVE_TURNS[:2]:  # a new call, and one that is known
                turn = await desk.begin("C")
                with pytest.raises(Busy):
                    await desk.begin("C")
                with pytest.raises(Busy):
                    await desk.store.calls.delete(thread("C"))
                await desk.run(turn, intent)
            assert await desk.steps("C") == [1, 2]

    asyncio.run(story())


def test_of_many_that_begin_at_once_one_wins(place: Place) -> None:
    async def story() -> None:
        async with place.desk() as desk:
            begun = await asyncio.gather(*(desk.begin("C") for _ in range(16)), return_exceptions=True)
            assert sorted(type(result) is OpenTurn for result in begun) == [False] * 15 + [True]
            assert {type(result) for result in begun} == {OpenTurn, Busy}

    asyncio.run(story())


@pytest.mark.parametrize("known", [False, True])
def test_a_turn_whose_lease_ran_out_is_lost_once_another_has_begun(shared: Place, known: bool) -> None:
    async def story() -> None:
        async with shared.desk() as desk:
            first_intent, *_ = FIVE_TURNS[int(known) :]
            if known:
                await desk.turn("C", "greeting")
            late = await desk.begin("C")
            shared.let_lease_run_out("C")
            told = await desk.turn("C", first_intent)
            before = await desk.store.calls.history(thread("C"))
            with pytest.raises(TurnLost):
                await desk.run(late, first_intent)
            await desk.store.calls.abandon(late)
            assert await desk.steps("C") == list(range(1, told["step"] + 1))
            assert await desk.store.calls.history(thread("C")) == before

    asyncio.run(story())


@pytest.mark.parametrize("gone", ["deleted", "refused", "open"])
def test_a_turn_whose_call_is_gone_is_lost(shared: Place, gone: str) -> None:
    async def story() -> None:
        async with shared.desk() as desk:
            late = await desk.begin("C")
            shared.let_lease_run_out("C")
            if gone == "deleted":
                assert await desk.store.calls.delete(thread("C")) is False
            elif gone == "refused":
                with pytest.raises(Refused):
                    await desk.turn("C", "process_refund")
            else:
                await desk.begin("C")
            with pytest.raises(TurnLost):
                await desk.run(late, "greeting")
            assert await desk.steps("C") == []
            assert not await desk.store.calls.read(thread("C"))
            left = shared.keys()
            assert {key for key in left if key.startswith("flows:")} <= {call_key("C")}

    asyncio.run(story())


def test_a_lease_that_ran_out_unnoticed_loses_nothing(shared: Place) -> None:
    async def story() -> None:
        async with shared.desk() as desk:
            turn = await desk.begin("C")
            shared.let_lease_run_out("C")
            await desk.run(turn, "greeting")
            assert await desk.steps("C") == [1]

    asyncio.run(story())


def test_a_renewed_lease_holds(shared: Place) -> None:
    async def story() -> None:
        async with shared.desk() as desk:
            turn = await desk.begin("C")
            shared.let_lease_run_out("C")
            await desk.store.calls.renew(turn)
            with pytest.raises(Busy):
                await desk.begin("C")
            await desk.store.calls.abandon(turn)
            await desk.store.calls.renew(turn)
            assert shared.keys().isdisjoint(keys("C"))

    asyncio.run(story())


# Commits


def test_a_repeated_commit_counts_once(shared: Place) -> None:
    async def story() -> None:
        async with shared.desk() as desk:
            calls = desk.store.calls
            assert isinstance(calls, RedisCalls)
            turn = await desk.begin("C")
            again = replace(turn)
            await desk.run(turn, "greeting")
            record = await calls.read(thread("C"))
            assert record is not None
            assert turn.head is not None
            await calls.commit(again, turn.head, b"", record.steps, complete=False)
            await desk.turn("C", "authenticate")
            later = await desk.begin("C")
            await calls.commit(replace(turn, head=None), turn.head, b"", record.steps, complete=False)
            with pytest.raises(Busy):
                await desk.begin("C")
            await calls.abandon(later)
            assert await desk.steps("C") == [1, 2]

    asyncio.run(story())


@pytest.mark.parametrize("lost", range(8))
def test_an_answer_of_the_store_that_is_lost_changes_nothing(core: Place, lost: int) -> None:
    """Two turns, a refused one, a deletion: any one answer of the server is lost with its connection."""

    async def story() -> None:
        async with losing_answers(core) as (url, lose), core.desk(url=url) as desk:
            lose.append(lost)
            assert (await desk.turn("C", "greeting"))["step"] == 1
            assert (await desk.turn("C", "authenticate"))["step"] == 2
            with pytest.raises(Refused):
                await desk.turn("C", "greeting")
            assert await desk.steps("C") == [1, 2]
            await desk.store.calls.delete(thread("C"))
            assert not lose
        assert core.keys() == set()

    asyncio.run(story())


def test_a_stock_save_without_a_commit_is_not_seen(shared: Place) -> None:
    async def story() -> None:
        async with shared.desk() as desk:
            await desk.turn("C", "greeting")
            crashed = await desk.begin("C")
            state = {"input_message": "well?", "intent": "authenticate"}
            if shared.choice == "langgraph-redis":
                await desk.graph.ainvoke(state, crashed.config(), durability="exit")  # type: ignore[call-overload]
            assert await desk.steps("C") == [1]
            assert len(await desk.store.calls.history(thread("C"))) == 1
            shared.let_lease_run_out("C")
            assert (await desk.turn("C", "authenticate"))["step"] == 2
            assert [moment.state["step_count"] for moment in await desk.store.calls.history(thread("C"))] == [1, 2]

    asyncio.run(story())


def test_a_run_that_fails_commits_nothing(place: Place) -> None:
    async def broken(request: AgentRequest) -> None:
        raise ZeroDivisionError

    async def story() -> None:
        agents = Agents({"greeting": broken, "auth": broken})
        async with place.desk(agents) as desk:
            before = place.keys()
            with pytest.raises(ZeroDivisionError):
                await desk.turn("C", "greeting")
            assert place.keys() == before
            agents.told.pop("greeting")
            await desk.turn("C", "greeting")
            kept, keys = await desk.store.calls.read(thread("C")), place.keys()
            with pytest.raises(ZeroDivisionError):
                await desk.turn("C", "authenticate")
            assert (await desk.store.calls.read(thread("C")), place.keys()) == (kept, keys)
            agents.told.clear()
            assert (await desk.turn("C", "authenticate"))["step"] == 2

    asyncio.run(story())


def test_a_turn_cancelled_at_any_moment_leaves_the_call_whole_and_free(place: Place) -> None:
    async def story() -> None:
        async with place.desk() as desk:
            await desk.turn("warm", "greeting")
            before = place.keys()
            for number in range(24):
                call, patience = f"C-{number}", number * 0.0004
                running = asyncio.create_task(desk.turn(call, "greeting"))
                await asyncio.wait([running], timeout=patience)
                running.cancel()
                await asyncio.wait([running])
                assert await desk.steps(call) in ([], [1])
                if not await desk.steps(call) and place.choice == "core":
                    assert not place.keys() & set(keys(call))
                await desk.store.calls.abandon(await desk.begin(call))
                await desk.store.calls.delete(thread(call))
            if place.choice == "core":
                assert place.keys() == before

    asyncio.run(story())


# A flow that runs by itself


def test_a_run_over_several_stages_commits_each(place: Place, report: Flow) -> None:
    async def story() -> None:
        seen: list[list[int]] = []
        busy: list[bool] = []

        async def look(request: AgentRequest) -> None:
            seen.append(await eventually(lambda: desk.steps("R"), [1]))
            with pytest.raises(Busy):
                await desk.begin("R")
            busy.append(True)

        async with place.desk(Agents({"draft": look}), flow=report) as desk:
            told = await desk.turn("R")
            assert (told["step"], told["is_complete"]) == (3, True)
            assert [step["number"] for step in told["session_summary"]["steps"]] == [1, 2, 3]
            assert (seen, busy) == ([[1]], [True])
            assert await desk.steps("R") == [1, 2, 3]
            moments = await desk.store.calls.history(thread("R"))
            assert [moment.state["step_count"] for moment in moments] == [1, 2, 3]
            await desk.store.calls.abandon(await desk.begin("R"))

    asyncio.run(story())
    assert_expiring(place)


def test_a_run_that_fails_halfway_goes_on_from_there(place: Place, report: Flow) -> None:
    async def broken(request: AgentRequest) -> None:
        raise ZeroDivisionError

    async def story() -> None:
        agents = Agents({"check": broken})
        async with place.desk(agents, flow=report) as desk:
            with pytest.raises(ZeroDivisionError):
                await desk.turn("R")
            assert await desk.steps("R") == [1, 2]
            assert_expiring(place)
            agents.told.clear()
            told = await desk.turn("R")
            assert (told["step"], told["is_complete"]) == (3, True)
            assert agents.heard == ["facts", "draft", "check", "check"]
            assert [step["number"] for step in told["session_summary"]["steps"]] == [1, 2, 3]

    asyncio.run(story())


def test_a_run_that_lost_its_lease_stops_at_its_next_commit(shared: Place, report: Flow) -> None:
    async def story() -> None:
        async def lose_lease(request: AgentRequest) -> None:
            await eventually(lambda: desk.steps("R"), [1])
            shared.let_lease_run_out("R")
            other.append(await desk.begin("R"))

        other: list[OpenTurn] = []
        async with shared.desk(Agents({"draft": lose_lease}), flow=report) as desk:
            with pytest.raises(TurnLost):
                await desk.turn("R")
            assert await desk.steps("R") == [1]
            await desk.store.calls.abandon(other[0])
            desk.agents.told.clear()
            assert (await desk.turn("R"))["is_complete"]
            assert await desk.steps("R") == [1, 2, 3]

    asyncio.run(story())


# The end of a call


def test_a_deleted_call_leaves_no_key(place: Place) -> None:
    async def story() -> None:
        async with place.desk() as desk:
            before = place.keys()
            for intent in FIVE_TURNS:
                await desk.turn("C", intent)
            first = await desk.store.calls.read(thread("C"))
            assert first is not None
            assert await desk.store.calls.delete(thread("C")) is True
            assert place.keys() == before
            assert await desk.store.calls.delete(thread("C")) is False
            assert place.keys() == before
            await desk.turn("C", "greeting")
            again = await desk.store.calls.read(thread("C"))
            assert again is not None
            assert again.state["incarnation"] != first.state["incarnation"]
            assert await desk.steps("C") == [1]

    asyncio.run(story())


def test_a_deletion_takes_nothing_from_its_neighbours(place: Place) -> None:
    async def story() -> None:
        calls = ["c", "C", "c1", "c:1", "c*", "c,1", "{c}", "c}"]
        async with place.desk() as desk:
            for call in calls:
                await desk.turn(call, "greeting", f"from {call}")
            for deleted, call in enumerate(calls):
                record = await desk.store.calls.read(thread(call))
                assert record is not None
                assert [step["input_message"] for step in record.steps] == [f"from {call}"]
                assert len(await desk.store.calls.history(thread(call))) == 1
                assert await desk.store.calls.delete(thread(call)) is True
                left = [await desk.steps(other) for other in calls[deleted + 1 :]]
                assert left == [[1]] * len(left)

    asyncio.run(story())


def test_a_deletion_never_takes_from_the_call_that_follows(shared: Place) -> None:
    async def story() -> None:
        async with shared.desk() as desk:
            for _ in range(20):
                await desk.turn("C", "greeting")
                turns = [desk.turn("C", "greeting", "again") for _ in range(4)]
                await asyncio.gather(desk.store.calls.delete(thread("C")), *turns, return_exceptions=True)
                record = await desk.store.calls.read(thread("C"))
                assert (record is None) == (call_key("C") not in lives(shared, keys("C")))
                assert record is None or record.state["step_count"] == len(record.steps) == 1
                await desk.store.calls.delete(thread("C"))

    asyncio.run(story())


def test_keys_expire_unless_a_turn_is_open(shared: Place) -> None:
    async def story() -> None:
        async with shared.desk() as desk:
            await desk.turn("C", "greeting")
            assert_expiring(shared)
            turn = await desk.begin("C")
            assert set(lives(shared, keys("C")).values()) == {-1}
            await desk.store.calls.abandon(turn)
            assert_expiring(shared)
            await desk.turn("C", "authenticate")
            assert_expiring(shared)

    asyncio.run(story())


def test_a_turn_that_commits_nothing_does_not_lengthen_a_call(shared: Place) -> None:
    """Or a stock saver's checkpoint, which does not live longer for it, would be missing one day."""

    async def story() -> None:
        async with shared.desk() as desk:
            await desk.turn("C", "greeting")
            with shared.admin() as redis:
                for key in keys("C"):
                    redis.expire(key, 100)
            with pytest.raises(Refused):
                await desk.turn("C", "greeting")
            assert all(90 < left <= 100 for left in lives(shared, keys("C")).values())
            await desk.turn("C", "authenticate")
            assert all(left > 3500 for left in lives(shared, keys("C")).values())

    asyncio.run(story())


def test_a_call_without_an_end_stays(shared: Place) -> None:
    async def story() -> None:
        async with shared.desk(ttl=0) as desk:
            await desk.turn("C", "greeting")
            with pytest.raises(Refused):
                await desk.turn("C", "process_refund")
        assert set(lives(shared, shared.keys()).values()) == {-1}

    asyncio.run(story())


def test_an_expired_call_is_a_new_one(place: Place) -> None:
    async def story() -> None:
        async with place.desk(ttl=1) as desk:
            await desk.turn("C", "greeting")
            first = await desk.begin("C")
            await desk.store.calls.abandon(first)
            await eventually(lambda: desk.steps("C"), [])
            assert await desk.store.calls.history(thread("C")) == []
            turn = await desk.begin("C")
            assert turn.loaded is None
            assert turn.incarnation != first.incarnation
            await desk.store.calls.abandon(turn)
            assert (await desk.turn("C", "greeting"))["step"] == 1

    asyncio.run(story())


@pytest.mark.parametrize("evicted", ["call", "checkpoints", "steps"])
def test_a_call_that_was_evicted_in_part_begins_anew(shared: Place, evicted: str) -> None:
    async def story() -> None:
        async with shared.desk() as desk:
            await desk.turn("C", "greeting")
            with shared.admin() as redis:
                if shared.choice == "langgraph-redis" and evicted == "checkpoints":
                    redis.delete(*redis.keys("checkpoint:*"))
                else:
                    redis.delete(call_key("C").removesuffix("call") + evicted)
            told = await desk.turn("C", "authenticate" if evicted == "steps" else "greeting")
            record = await desk.store.calls.read(thread("C"))
            assert record is not None
            assert [step["number"] for step in record.steps] == [told["step"]]
            assert record.state["step_count"] == told["step"]

    asyncio.run(story())


# A store in trouble


def test_scripts_that_the_server_forgot_are_sent_again(shared: Place) -> None:
    async def story() -> None:
        async with shared.desk() as desk:
            for intent in FIVE_TURNS:
                with shared.admin() as redis:
                    redis.script_flush()
                await desk.turn("C", intent)
            assert await desk.steps("C") == [1, 2, 3, 4, 5]

    asyncio.run(story())


@pytest.mark.parametrize("kind", ["core", "langgraph-redis"])
def test_a_store_that_dies_is_unavailable(kind: Choice, tmp_path: Path) -> None:
    async def story(url: str) -> None:
        place = Place(kind, url)

        async def die(request: AgentRequest) -> None:
            with place.admin() as redis:
                redis.shutdown(nosave=True)

        async with place.desk(Agents({"auth": die})) as desk:
            await desk.turn("C", "greeting")
            with pytest.raises(StoreUnavailable):
                await desk.turn("C", "authenticate")
            for attempt in (
                desk.begin("C"),
                desk.store.calls.read(thread("C")),
                desk.store.calls.history(thread("C")),
                desk.store.calls.delete(thread("C")),
                desk.store.calls.ping(),
                desk.store.saver.aget_tuple({"configurable": {"thread_id": "x", "checkpoint_ns": ""}}),
            ):
                with pytest.raises(StoreUnavailable, match="does not answer"):
                    await attempt

    with (redis_stack if kind == "langgraph-redis" else valkey)(tmp_path / "server") as url:
        asyncio.run(story(url))


def test_a_store_without_room_refuses_and_keeps_what_it_has(core: Place) -> None:
    async def story() -> None:
        async with core.desk() as desk:
            await desk.turn("C", "greeting")
            with core.admin() as redis:
                redis.config_set("maxmemory", 1)
                try:
                    with pytest.raises(StoreUnavailable, match="refuses"):
                        await desk.turn("C", "authenticate")
                    assert await desk.steps("C") == [1]
                finally:
                    redis.config_set("maxmemory", 0)
            assert (await desk.turn("C", "authenticate"))["step"] == 2

    asyncio.run(story())


def test_a_turn_on_core_is_two_scripts_and_nothing_else(core: Place) -> None:
    inside = "time hmget hget hset hdel hexists hgetall pttl persist del rpush lrange expire".split()  # noqa: SIM905

    async def story() -> dict[str, int]:
        async with core.desk() as desk:
            await desk.turn("C", "greeting")
            with core.admin() as redis:
                redis.config_resetstat()
                for intent in FIVE_TURNS[1:]:
                    await desk.turn("C", intent)
                stats: dict[str, dict[str, int]] = redis.info("commandstats")
        return {name.removeprefix("cmdstat_"): stat["calls"] for name, stat in stats.items()}

    ran = asyncio.run(story())
    outside = {name: calls for name, calls in ran.items() if name not in (*inside, "config|resetstat", "info")}
    assert outside == {"evalsha": 2 * 4}


# Names

IDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)
ODD = ["a:b", "a,b", "{a}", "a}b", "*", "'\"", "Жалоба", "👋", "a", "A", "é", "e\u0301", "_", "~a", "a__b", "x" * 200]


@given(IDS, IDS, IDS, IDS)
@example("a", "_", "a_", "")
@example("a__b", "c", "a", "b__c")
def test_two_calls_never_share_a_name(tenant: str, call: str, other_tenant: str, other_call: str) -> None:
    one, other = thread_name(tenant, call), thread_name(other_tenant, other_call)
    assert (one.lower() == other.lower()) == ((tenant, call) == (other_tenant, other_call))


@given(IDS)
@example("~" + encode("A"))
def test_names_can_be_read_back(text: str) -> None:
    assert decode(encode(text)) == text
    assert thread_of(tag_of(text)) == text
    assert not set(tag_of(text)) & set("{}:*?[]\\, ")


def test_odd_ids_never_collide(place: Place) -> None:
    async def story() -> None:
        async with place.desk() as desk:
            for call in ODD:
                assert (await desk.turn(call, "greeting", call))["step"] == 1
            for call in ODD:
                assert (await desk.turn(call, "authenticate", call))["step"] == 2
                record = await desk.store.calls.read(thread(call))
                assert record is not None
                assert [step["input_message"] for step in record.steps] == [call, call]

    asyncio.run(story())


def test_a_run_without_a_turn_is_kept_as_langgraph_wants_it(place: Place) -> None:
    """Studio and notebooks have no turn: their steps are in the state's history."""

    async def story() -> None:
        async with place.desk() as desk:
            config: Any = {"configurable": {"thread_id": "a notebook: {1}"}}
            for intent in FIVE_TURNS[:2]:
                said = {"input_message": "well?", "intent": intent}
                await desk.graph.ainvoke(said, config)  # type: ignore[call-overload]
            snapshot = await desk.graph.aget_state(config)
            assert [step["number"] for step in snapshot.values["steps"]] == [2]
            await desk.store.saver.adelete_thread("a notebook: {1}")
            assert (await desk.graph.aget_state(config)).values == {}

    asyncio.run(story())


def test_an_empty_checkpoint_of_a_turn_is_not_saved(place: Place) -> None:
    async def story() -> None:
        async with place.desk() as desk:
            turn = await desk.begin("C")
            await desk.store.saver.aput(turn.config(), empty_checkpoint(), {}, {})
            await desk.store.calls.finish(turn, [], complete=False)
            assert await desk.store.calls.read(thread("C")) is None
            await desk.store.calls.abandon(await desk.begin("C"))

    asyncio.run(story())


def thread(call: str) -> str:
    return thread_name("t", call)


def keys(call: str) -> list[str]:
    return keys_of(thread(call))


def call_key(call: str) -> str:
    return keys(call)[0]


def lives(place: Place, names: Any) -> dict[str, int]:
    """Seconds each of the keys that exist has left; -1 for ever."""
    with place.admin() as redis:
        found = {name: int(redis.ttl(name)) for name in names}
    return {name: left for name, left in found.items() if left != -2}


def assert_expiring(place: Place) -> None:
    if place.url is not None:
        assert all(left > 0 for left in lives(place, place.keys()).values())


async def eventually(look: Callable[[], Any], wanted: Any) -> Any:
    """What `look` finds, once it is what was wanted or patience ends."""
    deadline = time.monotonic() + PATIENCE
    while (found := await look()) != wanted and time.monotonic() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(0.005)
    assert found == wanted
    return found


@asynccontextmanager
async def losing_answers(place: Place) -> AsyncIterator[tuple[str, list[int]]]:
    """A way to the server that drops the answer whose number is in the list, and the connection with it."""
    lose: list[int] = []
    assert place.url is not None
    host, port = place.url.removeprefix("redis://").split(":")

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        above, up = await asyncio.open_connection(host, int(port))
        try:
            while sent := await reader.read(1 << 20):
                up.write(sent)
                answer = await above.read(1 << 20)
                if lose and lose[0] == 0:
                    lose.clear()
                    return
                if lose:
                    lose[0] -= 1
                writer.write(answer)
        finally:
            up.close()
            writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}", lose
