"""Everything a service holds open, opened in order and closed in reverse: store, way to the agents, flows, turns."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import structlog
from pydantic import SecretStr

from graph.archive import Archive
from graph.builder import CallGraph, build_graph
from graph.classifier import choose_classifier
from graph.flow import Flow
from graph.models import choose_model
from graph.routing import Routes
from graph.store.opening import Store, open_store
from nodes.classify import ModelClassifier
from nodes.models import OpenAIModel
from nodes.reaching.pool import Pool
from nodes.remote import Caller, open_client
from server.a2a.notifying import Notifier
from server.a2a.push import CallPushConfigs
from server.a2a.push_delivery import PushSender
from server.a2a.push_guard import PushGuard
from server.a2a.tasks import thread_of_task
from server.agent_hosts import AgentHosts
from server.agents import Agents
from server.archiving import archiving
from server.flow_files import must_check, read_flows
from server.flows import IDLE_SECONDS, Build, Flows
from server.listening import is_loopback
from server.probing import probing
from server.registering import EVERYWHERE, SETTING
from server.resuming import keeping_on
from server.settings import Settings
from server.turning_down import turning_down
from server.turns import Turns

Closing = TypeVar("Closing", ModelClassifier, OpenAIModel)

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Runtime:
    """What the doors use."""

    settings: Settings
    flows: Flows
    store: Store
    turns: Turns
    push_configs: CallPushConfigs
    push_guard: PushGuard
    pool: Pool
    agents: Agents
    draining: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the service is told to stop: it is not ready any more, but serves on for `drain_seconds`."""
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the service stops: what streams ends."""

    @property
    def routes(self) -> Routes:
        """The default flow, in the version that new calls begin on."""
        return self.flows.current().routes


@asynccontextmanager
async def open_runtime(settings: Settings, env: Mapping[str, str] | None = None) -> AsyncIterator[Runtime]:
    """Open everything the service needs.

    Args:
        settings: how it is configured.
        env: where the flows' `${NAME}` are looked up; the process's environment by default.

    Raises:
        graph.loader.FlowError: if a flow that the settings name does not check.
        graph.store.errors.StoreError: if the store cannot be used.
        graph.store.embedded.EmbeddedStoreError: if the embedded store cannot be started.
    """
    known = os.environ if env is None else env
    files = partial(read_flows, settings.flow, settings.flows, known)
    found = await asyncio.to_thread(must_check, files)
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(
            open_store(
                choice=settings.checkpointer,
                url=_plain(settings.redis_url),
                data_dir=settings.data_dir,
                ttl=settings.session_ttl_seconds,
                fsync=settings.fsync,
                lease=settings.lease_seconds,
                audit_key=settings.audit_secret,
                archive=_archive(settings),
            )
        )
        idle = max(IDLE_SECONDS, settings.execution_ttl_seconds)  # so that what has ended can be told of
        pool = Pool()
        client = open_client(resolver=partial(AgentHosts, pool, _allowed(settings), SETTING))
        caller = await stack.enter_async_context(Caller(client, max_reply_bytes=settings.max_reply_bytes))
        build = await _build(settings, store, caller, pool, stack)
        flows = Flows(store, build, tenant=settings.tenant, env=known, files=files, idle=idle)
        await flows.open(found)
        flows.current().build_now()
        push_configs = CallPushConfigs(store.calls, partial(thread_of_task, settings.tenant))
        guard = PushGuard(settings.push_allow)
        sender = await stack.enter_async_context(PushSender(guard, current=push_configs.current))
        turns = Turns(
            flows,
            store.calls,
            store.events,
            tenant=settings.tenant,
            turn_timeout=settings.turn_timeout_seconds,
            busy_wait=settings.busy_wait_seconds,
            execution_ttl=settings.execution_ttl_seconds,
            hooks=[Notifier(sender, flows)],
        )
        registry = store.registry(settings.tenant)
        agents = await stack.enter_async_context(
            Agents(registry, pool, flows, PushGuard(settings.agents_allow, setting=SETTING))
        )
        await stack.enter_async_context(turning_down(agents))
        await stack.enter_async_context(probing(pool, caller.probe, settings.probe_seconds))
        if settings.archive_dir is not None:
            await stack.enter_async_context(archiving(store.calls, settings.tenant))
        await stack.enter_async_context(turns)
        await stack.enter_async_context(keeping_on(turns, flows, store.calls, caller, pool, settings.tenant))
        yield Runtime(settings, flows, store, turns, push_configs, guard, pool, agents)


async def _build(settings: Settings, store: Store, caller: Caller, pool: Pool, stack: AsyncExitStack) -> Build:
    """Return what compiles a flow: all of them share one way to the agents."""
    classifier = await _chosen(choose_classifier, settings, stack)
    model = await _chosen(choose_model, settings, stack)

    def build(flow: Flow) -> CallGraph:
        _warn_of_short_turns(settings, flow)
        return build_graph(
            flow,
            caller=caller,
            classifier=classifier,
            model=model,
            pool=pool,
            checkpointer=store.saver,
            agent_timeout=settings.agent_timeout_seconds,
            classifier_timeout=settings.classifier_timeout_seconds,
        )

    return build


def _warn_of_short_turns(settings: Settings, flow: Flow) -> None:
    """Say which agents are given longer than a turn may take: they are cut off."""
    seconds = flow.turn_timeout or settings.turn_timeout_seconds
    asked = {f"agent {name}": agent.timeout for name, agent in flow.agents.items()}
    asked |= {f"stage {name}": stage.timeout for name, stage in flow.stages.items()}
    asked["FLOWS_AGENT_TIMEOUT_SECONDS"] = settings.agent_timeout_seconds
    for who, timeout in asked.items():
        if timeout and timeout > seconds:
            log.warning(
                "a turn is shorter than what it waits for",
                flow=flow.flow,
                turn=seconds,
                timeout_of=who,
                timeout=timeout,
            )


async def _chosen(choose: Callable[..., Closing | None], settings: Settings, stack: AsyncExitStack) -> Closing | None:
    """Return what a key calls for, closed with the stack; None without a key."""
    key, base_url = _plain(settings.openai_api_key), _plain(settings.openai_base_url)
    # In a thread: with a key, langchain-openai is imported here, and that takes seconds.
    chosen = await asyncio.to_thread(choose, key, model=settings.openai_model, base_url=base_url)
    if chosen is not None:
        stack.push_async_callback(chosen.aclose)
    return chosen


def _allowed(settings: Settings) -> tuple[str, ...]:
    """Return where registered agents may be: anywhere, if nobody but this machine can reach us."""
    alone = is_loopback(settings.host) and settings.public_url is None
    return EVERYWHERE if alone else settings.agents_allow


def _archive(settings: Settings) -> Archive | None:
    return Archive(settings.archive_dir, key=settings.audit_secret) if settings.archive_dir else None


def _plain(secret: SecretStr | None) -> str | None:
    return secret.get_secret_value() if secret else None
