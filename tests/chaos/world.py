"""Everything that a run needs, opened in order: store, agents, a proxy before each agent, and two replicas."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from httpx_aiohttp import AiohttpTransport

from tests.chaos.ledger import Books
from tests.chaos.processes import Kind, Nursery, Replica, Store, agents, nursery
from tests.chaos.proxy import Choose, Cut, Cutting, Proxy, proxy

LEASE_SECONDS = 2.0
AGENT_SECONDS = 2.0
"""As `chaos.yaml` has it."""
FLOW = Path(__file__).with_name("chaos.yaml")
RUN = Path(__file__).with_name("chaos_run.yaml")


@dataclass
class World:
    """A run's processes, and the truth about its effects."""

    store: Store
    replicas: list[Replica]
    proxies: dict[str, Proxy]
    agents: dict[str, str]
    """The agents' own addresses, past the proxies."""
    books: Books
    http: httpx.AsyncClient
    choose: "Choices" = field(default_factory=lambda: Choices())
    told_to_end: dict[str, float] = field(default_factory=dict)
    """When replicas were last told to end, by their addresses, on the monotonic clock."""

    @property
    def cuts(self) -> list[Cutting]:
        """Every connection that was cut."""
        return [cut for one in self.proxies.values() for cut in one.cuts]

    def told_to_end_at(self, url: str) -> float:
        """Return when the replica at a URL was last told to end; 0 if it never was."""
        return max((at for of, at in self.told_to_end.items() if url.startswith(f"{of}/")), default=0.0)

    async def arrived(self) -> int:
        """Return how many messages agents have acted on, past the proxies."""
        answers = [await self.http.get(f"{url}/arrived") for url in self.agents.values()]
        return sum(int(answer.json()) for answer in answers)

    async def has_arrived(self, messages: int) -> bool:
        """Tell whether agents have acted on so many messages."""
        return await self.arrived() >= messages

    async def let_go(self) -> None:
        """Let the agents answer what they hold."""
        for url in self.agents.values():
            await self.http.post(f"{url}/let-go")


@dataclass
class Choices:
    """What the proxies do to requests; may be changed at any time."""

    of: Callable[[str, str], Cut | None] = lambda agent, method: None
    """By agent and JSON-RPC method."""

    def for_agent(self, agent: str) -> Choose:
        """Return the choice of one agent's proxy."""
        return lambda method: self.of(agent, method)


@asynccontextmanager
async def open_world(
    kind: Kind, folder: Path, *, fsync: str = "always", broken: str | None = None, lease: float = LEASE_SECONDS
) -> AsyncIterator[World]:
    """Start it all; end it all."""
    choices = Choices()
    async with AsyncExitStack() as stack:
        forks = await stack.enter_async_context(nursery())
        ledger = folder / "ledger.jsonl"
        books = Books(ledger)
        stack.callback(books.close)
        at = await stack.enter_async_context(agents(ledger))
        proxies = {
            name: await stack.enter_async_context(proxy(name, url, choices.for_agent(name)))
            for name, url in at.items()
        }
        store = Store(kind, folder, fsync)
        stack.callback(store.kill)
        await store.start()
        urls = {f"{name.upper()}_URL": one.url for name, one in proxies.items()}
        replicas = [
            _replica(name, forks, store, folder, {**urls, "FLOWS_LEASE_SECONDS": str(lease)}, broken)
            for name in ("one", "two")
        ]
        for replica in replicas:
            stack.push_async_callback(replica.kill)
            await replica.start()
        http = await stack.enter_async_context(httpx.AsyncClient(transport=AiohttpTransport(), timeout=None))
        yield World(store, replicas, proxies, at, books, http, choices)


def _replica(
    name: str, forks: Nursery, store: Store, folder: Path, urls: dict[str, str], broken: str | None
) -> Replica:
    env = {
        **urls,
        "REDIS_URL": store.url,
        "FLOWS_CHECKPOINTER": store.kind,
        "FLOWS_DATA_DIR": str(folder / f"data-{name}"),
        "FLOWS_FLOW": str(FLOW),
        "FLOWS_FLOWS": str(RUN),
        "FLOWS_HOST": "127.0.0.1",
        "FLOWS_BUSY_WAIT_SECONDS": "1",
        "FLOWS_TURN_TIMEOUT_SECONDS": "8",
        "FLOWS_LOG_LEVEL": "info",
    }
    return Replica(name, forks, env, folder / f"replica-{name}.log", broken)
