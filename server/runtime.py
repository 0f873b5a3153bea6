"""Everything a service holds open, opened in order and closed in reverse: store, way to the agents, graph, turns."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import structlog
from pydantic import SecretStr

from graph.builder import CallGraph, build_graph
from graph.classifier import choose_classifier
from graph.flow import Flow
from graph.loader import load_flow
from graph.routing import Routes, routes_of
from graph.store.opening import Store, open_store
from nodes.ports import Classifier
from nodes.remote import Caller, open_client
from server.a2a.notifying import Notifier
from server.a2a.push import CallPushConfigs
from server.a2a.push_delivery import PushSender
from server.a2a.push_guard import PushGuard
from server.a2a.tasks import CallTasks
from server.settings import Settings
from server.turns import Turns

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Runtime:
    """What the doors use."""

    settings: Settings
    routes: Routes
    store: Store
    graph: CallGraph
    turns: Turns
    tasks: CallTasks
    push_configs: CallPushConfigs
    push_guard: PushGuard
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the service stops: what streams ends."""


@asynccontextmanager
async def open_runtime(settings: Settings, env: Mapping[str, str] | None = None) -> AsyncIterator[Runtime]:
    """Open everything the service needs.

    Args:
        settings: how it is configured.
        env: where the flow's `${NAME}` are looked up; the process's environment by default.

    Raises:
        graph.loader.FlowError: if the flow does not check.
        graph.store.errors.StoreError: if the store cannot be used.
        graph.store.embedded.EmbeddedStoreError: if the embedded store cannot be started.
    """
    routes = routes_of(load_flow(settings.flow, env))
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(
            open_store(
                choice=settings.checkpointer,
                url=_plain(settings.redis_url),
                data_dir=settings.data_dir,
                ttl=settings.session_ttl_seconds,
            )
        )
        graph = build_graph(
            routes.flow,
            caller=await stack.enter_async_context(Caller(open_client(), max_reply_bytes=settings.max_reply_bytes)),
            classifier=await _classifier(settings, stack),
            checkpointer=store.saver,
            agent_timeout=settings.agent_timeout_seconds,
            classifier_timeout=settings.classifier_timeout_seconds,
        )
        tasks = CallTasks(store.calls, store.events, routes, settings.tenant)
        push_configs = CallPushConfigs(store.calls, tasks.thread_of_task)
        guard = PushGuard(settings.push_allow)
        sender = await stack.enter_async_context(PushSender(guard, current=push_configs.current))
        turns = Turns(
            graph,
            routes,
            store.calls,
            store.events,
            tenant=settings.tenant,
            turn_timeout=_turn_timeout(settings, routes.flow),
            stop_timeout=settings.turn_timeout_seconds,
            busy_wait=settings.busy_wait_seconds,
            hooks=[Notifier(sender, routes)],
        )
        await stack.enter_async_context(turns)
        yield Runtime(settings, routes, store, graph, turns, tasks, push_configs, guard)


def _turn_timeout(settings: Settings, flow: Flow) -> float:
    """Return how long a turn may take, seconds; an agent that is given longer than that is cut off."""
    seconds = flow.turn_timeout or settings.turn_timeout_seconds
    asked = {f"agent {name}": agent.timeout for name, agent in flow.agents.items()}
    asked |= {f"stage {name}": stage.timeout for name, stage in flow.stages.items()}
    asked["FLOWS_AGENT_TIMEOUT_SECONDS"] = settings.agent_timeout_seconds
    for who, timeout in asked.items():
        if timeout and timeout > seconds:
            log.warning("a turn is shorter than what it waits for", turn=seconds, timeout_of=who, timeout=timeout)
    return seconds


async def _classifier(settings: Settings, stack: AsyncExitStack) -> Classifier | None:
    key = _plain(settings.openai_api_key)
    # In a thread: with a key, langchain-openai is imported here, and that takes seconds.
    chosen = await asyncio.to_thread(
        choose_classifier, key, model=settings.openai_model, base_url=_plain(settings.openai_base_url)
    )
    if chosen is not None:
        stack.push_async_callback(chosen.aclose)
    return chosen


def _plain(secret: SecretStr | None) -> str | None:
    return secret.get_secret_value() if secret else None
