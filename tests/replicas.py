"""Two replicas of a relay on one store, and the agent behind them: what tests of A2A tasks stand on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from redis import Redis

from graph.store.names import events_key, keys_of, thread_name
from nodes.remote.dialect import Dialect
from tests.a2a_client import Client, Json, opened, state_of, words_of
from tests.background import Background
from tests.polite_agents import PoliteAgent, polite_agent

if TYPE_CHECKING:  # whose fixtures these become
    from tests.conftest import Service, StartService

SHARED = ("valkey", "langgraph-redis")
"""The stores that replicas share."""


@dataclass(frozen=True)
class Agent:
    """The agent behind the service: the words of a message say what it does (`tests.polite_agents`)."""

    polite: PoliteAgent
    background: Background

    def go_on(self, pieces: int = 1) -> None:
        """Let `stream` send its next pieces."""
        for _ in range(pieces):
            self.background.loop.call_soon_threadsafe(self.polite.go.release)

    @property
    def canceled(self) -> list[str]:
        return self.polite.canceled


@dataclass(frozen=True)
class Replicas:
    """Two services on one store; whatever one does the other knows."""

    here: Service
    there: Service

    def clients(self, version: Any = "1.0") -> tuple[Client, Client]:
        """A client of each."""
        here, there = (
            Client(service.http, version, f"/a2a/{service.runtime.routes.flow.flow}")
            for service in (self.here, self.there)
        )
        return here, there

    def let_lease_run_out(self, call: str) -> None:
        """Let the turn that is open in the call look as if its process had died, and who follows look."""
        settings = self.here.runtime.settings
        assert settings.redis_url
        thread = thread_name(settings.tenant, call)
        with Redis.from_url(settings.redis_url.get_secret_value()) as redis:
            redis.hset(keys_of(thread)[0], "lease", 1)
            redis.publish(events_key(thread), "")


@pytest.fixture
def open_polite(background: Background) -> Iterator[Callable[[Dialect], Agent]]:
    """Open agents that end with the test."""
    stack = AsyncExitStack()

    def open_one(dialect: Dialect) -> Agent:
        return Agent(background.run(stack.enter_async_context(polite_agent(dialect))), background)

    yield open_one
    background.run(stack.aclose())


@pytest.fixture
def polite(open_polite: Callable[[Dialect], Agent]) -> Agent:
    return open_polite("1.0")


@pytest.fixture(params=SHARED)
def relays(request: pytest.FixtureRequest, start: StartService, polite: Agent) -> Replicas:
    """Two relays to the agent, on each store that replicas share."""
    return replicas(request, start, request.param, {"RELAY_AGENT_URL": polite.polite.url}, flow="relay")


@pytest.fixture(params=SHARED)
def flows(request: pytest.FixtureRequest, start: StartService, polite: Agent) -> Replicas:
    """Two replicas of the call flow, whose greeting and refund are the agent's."""
    urls = {"GREETING_AGENT_URL": polite.polite.url, "REFUND_AGENT_URL": polite.polite.url}
    return replicas(request, start, request.param, urls)


def replicas(
    request: pytest.FixtureRequest, start: StartService, store: str, env: dict[str, str], **options: Any
) -> Replicas:
    """Start two services on a store, with a tenant of the test's own."""
    url = request.getfixturevalue("valkey_url" if store == "valkey" else "redis_stack_url")
    settings = {"redis_url": url, "tenant": f"t{abs(hash(request.node.nodeid)) % 10**12}", **options}
    return Replicas(start(env, **settings), start(env, **settings))


@pytest.fixture
def at_once() -> Iterator[Callable[..., Future[Any]]]:
    """Do something in another thread meanwhile."""
    with ThreadPoolExecutor() as threads:
        yield threads.submit


def in_short(event: Json) -> str:
    """What an event says, in a word or two."""
    kind, body = opened(event)
    if kind == "artifact-update":
        return f"{body['artifact']['artifactId']} {words_of(body['artifact'])}"
    return f"{kind} {state_of(body)}"


def artifacts(task: Json) -> dict[str, list[Json]]:
    """The parts of a task's artifacts, by their ids."""
    return {artifact["artifactId"]: list(artifact["parts"]) for artifact in task.get("artifacts", [])}


def assembled(events: list[Json]) -> dict[str, list[Json]]:
    """The artifacts that a client holds which heard a task and what followed."""
    held: dict[str, list[Json]] = {}
    for kind, body in map(opened, events):
        if kind == "task":
            held = artifacts(body)
        elif kind == "artifact-update":
            artifact = body["artifact"]
            before = held.get(artifact["artifactId"], []) if body.get("append") else []
            held[artifact["artifactId"]] = [*before, *artifact["parts"]]
    return held
