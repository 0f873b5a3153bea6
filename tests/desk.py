"""What tests of the store stand on: stores to open, agents in this process, and a desk where calls are taken."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from redis import Redis

from graph.archive import Archive
from graph.builder import CallGraph, build_graph
from graph.flow import Flow
from graph.loader import load_flow
from graph.store.calls import OpenTurn, new_steps
from graph.store.names import keys_of, thread_name
from graph.store.opening import Choice, Store, open_store
from nodes.ports import AgentRequest, Reply, TaskState, Tell
from server.flows import Flows, Version
from server.turn import TurnRequest
from server.turns import Turns

FIVE_TURNS = ("greeting", "verify_identity", "refund_request", "process_refund", "closing")
PATIENCE = 10.0
_MARKER = "flows:checkpointer"

Behaviour = Callable[[AgentRequest], Any]


@dataclass
class Agents:
    """Agents in this process: they repeat what they hear, unless told otherwise."""

    told: dict[str, Behaviour] = field(default_factory=dict)
    heard: list[str] = field(default_factory=list)

    async def call(self, request: AgentRequest, tell: Tell | None = None) -> Reply:
        self.heard.append(request.agent)
        if request.agent in self.told:
            await self.told[request.agent](request)
        return Reply(f"{request.agent} heard {request.text}", data=({"pounds": 1.5, "ok": True, "none": None},))

    async def cancel(self, request: AgentRequest) -> TaskState | None:
        return None

    async def find(self, request: AgentRequest) -> Reply | None:
        return None


@dataclass
class Desk:
    """A store with agents and a flow around it: what a service is made of."""

    store: Store
    agents: Agents
    graph: CallGraph
    turns: Turns

    async def turn(self, call: str, intent: str | None = None, message: str = "well?") -> dict[str, Any]:
        return await self.turns.run(TurnRequest(call, "ACC-1", "ECI-7", message, intent))

    async def begin(self, call: str, *, said: Mapping[str, Any] | None = None, key: str | None = None) -> OpenTurn:
        return await self.store.calls.begin(thread(call), said=said, key=key)

    async def run(self, turn: OpenTurn, intent: str | None = None) -> None:
        """Run the graph for a turn and finish it, without what else surrounds a turn."""
        said = {"input_message": "well?", "intent": intent, "incarnation": turn.incarnation}
        durability = "exit" if turn.one_save else "async"
        state = await self.graph.ainvoke(said, turn.config(), durability=durability)  # type: ignore[call-overload]
        await self.store.calls.finish(turn, new_steps(turn, state), complete=bool(state["is_complete"]))

    async def steps(self, call: str) -> list[int]:
        record = await self.store.calls.read(thread(call))
        return [step["number"] for step in record.steps] if record else []


@dataclass
class Place:
    """A store to open, several times if need be, and a view of its server's keys."""

    choice: Choice
    url: str | None = None

    @asynccontextmanager
    async def desk(
        self,
        agents: Agents | None = None,
        *,
        flow: Flow | None = None,
        ttl: int = 3600,
        url: str | None = None,
        archive: Archive | None = None,
    ) -> AsyncIterator[Desk]:
        flow, agents = flow or load_flow("call", {}), agents or Agents()
        async with self.open(ttl, url, archive) as store:
            graph = build_graph(flow, caller=agents, checkpointer=store.saver)
            flows = Flows(store, lambda flow: build_graph(flow, caller=agents, checkpointer=store.saver), tenant="t")
            flows.serve(Version(flow, lambda: graph))
            turns = Turns(flows, store.calls, store.events, tenant="t", turn_timeout=PATIENCE, busy_wait=0)
            yield Desk(store, agents, graph, turns)

    def open(
        self, ttl: int = 3600, url: str | None = None, archive: Archive | None = None
    ) -> AbstractAsyncContextManager[Store]:
        return open_store(choice=self.choice, url=url or self.url, ttl=ttl, archive=archive)

    def keys(self) -> set[str]:
        """All keys but the marker; none in memory."""
        if self.url is None:
            return set()
        with self.admin() as redis:
            return {key.decode() for key in redis.scan_iter()} - {_MARKER}

    def admin(self) -> Redis:
        assert self.url is not None
        return Redis.from_url(self.url)

    def let_lease_run_out(self, call: str) -> None:
        with self.admin() as redis:
            redis.hset(call_key(call), "lease", 1)


def place_of(name: str, servers: dict[str, str]) -> Place:
    if name == "memory":
        return Place("memory")
    with Redis.from_url(servers[name]) as redis:
        redis.flushall()
    return Place("langgraph-redis" if name == "langgraph-redis" else "core", servers[name])


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
