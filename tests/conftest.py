"""What several tests stand on: a loop in the background, demo agents, stores, and a service over all of it."""

import gc
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import settings

from server.app import create_app
from server.demo_agents import AGENTS, serve
from server.listening import listen, serving, url_of
from server.runtime import Runtime, open_runtime
from server.settings import Settings
from tests.background import Background
from tests.desk import Place, place_of
from tests.puppet import Puppet
from tests.redis_stack import redis_stack, valkey
from tests.replicas import at_once, flows, open_polite, polite, relays  # noqa: F401  (fixtures)

settings.register_profile("unhurried", deadline=None)  # how long a test takes says what else the machine does
settings.load_profile("unhurried")

STORES = ("embedded", "valkey", "langgraph-redis", "memory")


@dataclass(frozen=True)
class Service:
    """A running service and a client that talks to it."""

    url: str
    http: httpx.Client
    runtime: Runtime
    stop: Callable[[], None]
    """Stop the service before the test ends."""

    def turn(self, call: str, message: str, intent: str | None = None, **more: Any) -> httpx.Response:
        """Take a turn of the call, as account ACC-1."""
        sent = {"call_identify_id": call, "account_id": "ACC-1", "eci": "ECI-7", "input_message": message}
        return self.http.post("/orchestrate", json={**sent, **({"intent": intent} if intent else {}), **more})


StartService = Callable[..., Service]


@pytest.fixture(scope="session", autouse=True)
def frugal() -> Iterator[None]:
    """Spend the processor on what is tested.

    Every client and service reads the same certificates, and the collector looks through all that was collected.
    """
    gc.collect()
    gc.freeze()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ssl, "create_default_context", cache(ssl.create_default_context))
        yield


@pytest.fixture(scope="session")
def background() -> Iterator[Background]:
    with Background() as running:
        yield running


@pytest.fixture(scope="session")
def agents(background: Background) -> dict[str, str]:
    """The demo agents on free ports, by name."""
    return background.open(serve(ports=dict.fromkeys(AGENTS, 0)))


@pytest.fixture(scope="session")
def valkey_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with valkey(tmp_path_factory.mktemp("valkey")) as url:
        yield url


@pytest.fixture(scope="session")
def redis_stack_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with redis_stack(tmp_path_factory.mktemp("redis-stack")) as url:
        yield url


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    """Settings for each store in turn, with a tenant of its own where the store is shared."""
    name = request.param
    tenant = f"t{abs(hash(request.node.nodeid)) % 10**12}"
    if name == "embedded":
        return {"data_dir": tmp_path / "flows"}
    if name == "memory":
        return {"checkpointer": "memory"}
    if name == "valkey":
        return {"redis_url": request.getfixturevalue("valkey_url"), "tenant": tenant}
    return {"redis_url": request.getfixturevalue("redis_stack_url"), "tenant": tenant}


@pytest.fixture(scope="session")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Servers of their own for tests that look at keys and empty them."""
    with ExitStack() as stack:
        plain = stack.enter_context(valkey(tmp_path_factory.mktemp("valkey")))
        able = stack.enter_context(redis_stack(tmp_path_factory.mktemp("redis-stack")))
        yield {"core": plain, "core-on-stack": able, "langgraph-redis": able}


@pytest.fixture(params=["core", "core-on-stack", "langgraph-redis", "memory"])
def place(request: pytest.FixtureRequest, places: dict[str, str]) -> Place:
    """Each store in turn, empty."""
    return place_of(request.param, places)


@pytest.fixture(params=["core", "langgraph-redis"])
def shared(request: pytest.FixtureRequest, places: dict[str, str]) -> Place:
    """A store that processes share, so that leases run out and keys can be seen."""
    return place_of(request.param, places)


@pytest.fixture
def core(places: dict[str, str]) -> Place:
    return place_of("core", places)


@pytest.fixture
def start(background: Background, agents: dict[str, str]) -> Iterator[StartService]:
    """Start services; each is stopped at the end of the test, the last first, or by `stop`."""
    with _starting(background, agents) as start_service:
        yield start_service


@pytest.fixture(scope="module")
def start_for_module(background: Background, agents: dict[str, str]) -> Iterator[StartService]:
    """Start services that a module's tests share."""
    with _starting(background, agents) as start_service:
        yield start_service


@contextmanager
def _starting(background: Background, agents: dict[str, str]) -> Iterator[StartService]:
    stacks: list[AsyncExitStack] = []

    def start_service(env: dict[str, str] | None = None, **options: Any) -> Service:
        urls = {f"{name.upper()}_AGENT_URL": url for name, url in agents.items()}
        stack = AsyncExitStack()
        stacks.append(stack)
        opening = running(make_settings(**options), {**urls, **(env or {})})
        url, http, runtime = background.run(stack.enter_async_context(opening))
        return Service(url, http, runtime, lambda: background.run(stack.aclose()))

    yield start_service
    for stack in reversed(stacks):
        background.run(stack.aclose())


@pytest.fixture
def puppet(background: Background) -> Iterator[tuple[Puppet, str]]:
    """An agent that does what it is told, and its address."""
    agent = Puppet()
    stack = AsyncExitStack()

    async def enter() -> str:
        listener = stack.enter_context(listen("the puppet", "127.0.0.1", 0))
        await stack.enter_async_context(serving(agent.app, listener, grace=1))
        return url_of(listener)

    yield agent, background.run(enter())
    background.run(stack.aclose())


def make_settings(**options: Any) -> Settings:
    """Return settings that depend on nothing in the environment."""
    by_alias = {"redis_url": "REDIS_URL", "openai_api_key": "OPENAI_API_KEY", "openai_base_url": "OPENAI_BASE_URL"}
    # Or tests would leave archives where they are run, and agents would be asked what no test asks them.
    given = {"archive": "off", "flows": (), "probe_seconds": 0, **options}
    return Settings(**{by_alias.get(name, name): value for name, value in given.items()})


@asynccontextmanager
async def running(settings: Settings, env: dict[str, str]) -> AsyncIterator[tuple[str, httpx.Client, Runtime]]:
    """Run a service on a free port."""
    with listen("the service", "127.0.0.1", 0) as listener:
        async with open_runtime(settings, env) as runtime, serving(create_app(settings, runtime), listener, grace=5):
            try:
                with httpx.Client(base_url=url_of(listener), timeout=30) as client:
                    yield url_of(listener), client, runtime
            finally:
                runtime.stopping.set()
