"""Who competes and how each is started: the service on two stores, and the hand-written peer."""

import os
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal, get_args

from bench.processes import Running, free_port, http_answers, http_ready, running, running_redis

Name = Literal["core", "langgraph-redis", "handwritten", "on-langgraph"]
NAMES: tuple[Name, ...] = get_args(Name)
SUBJECT: Name = "core"
PEER: Name = "handwritten"
FLOOR: Name = "on-langgraph"
OTHERS = {PEER: "bench.handwritten", FLOOR: "bench.on_langgraph"}
"""The modules of the contestants that are not the service."""

AGENTS = (
    "GREETING",
    "AUTH",
    "REFUND",
    "BILLING",
    "BOOKING",
    "COMPLAINT",
    "ACCOUNT",
    "BALANCE",
    "CLOSING",
    "FALLBACK",
)


@asynccontextmanager
async def running_agent() -> AsyncIterator[Running]:
    """The one agent process that answers for every agent of every contestant."""
    port = free_port()
    command = [sys.executable, "-m", "bench.agent"]
    async with running("agent", command, _environment() | {"PORT": str(port)}, port, http_answers) as agent:
        yield agent


@asynccontextmanager
async def running_service(
    name: Name, agent: Running, redis_port: int, settings: Mapping[str, str] | None = None
) -> AsyncIterator[Running]:
    """One contestant, on the Redis behind that port; `settings` are variables other than its defaults."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="bench-") as data:
        env = _environment() | agent_urls(agent) | _own_environment(name, port, data) | dict(settings or {})
        env["REDIS_URL"] = f"redis://127.0.0.1:{redis_port}/0"
        async with running(name, service_command(name), env, port, http_ready) as service:
            yield service


@asynccontextmanager
async def running_contestant(name: Name, agent: Running) -> AsyncIterator[Running]:
    """One contestant, on a Redis of its own."""
    async with running_redis() as redis, running_service(name, agent, redis.port) as service:
        yield service


def service_command(name: Name) -> list[str]:
    """What starts a contestant."""
    if name in OTHERS:
        return [sys.executable, "-m", OTHERS[name]]
    return [str(Path(sys.executable).with_name("flows")), "serve"]


def agent_urls(agent: Running) -> dict[str, str]:
    """The variables by which a contestant finds its agents, all of which are this one."""
    return {f"{name}_AGENT_URL": agent.url for name in AGENTS}


def embedded_environment(agent: Running, port: int, data: str) -> dict[str, str]:
    """The environment of a service that brings its own store, as one that is told nothing does."""
    env = _environment() | agent_urls(agent) | _own_environment(SUBJECT, port, data)
    del env["FLOWS_CHECKPOINTER"]
    return env


def _own_environment(name: Name, port: int, data: str) -> dict[str, str]:
    if name in OTHERS:
        return {"PORT": str(port)}
    return {
        "FLOWS_PORT": str(port),
        "FLOWS_HOST": "127.0.0.1",
        "FLOWS_DATA_DIR": data,
        "FLOWS_CHECKPOINTER": name,
    }


def _environment() -> dict[str, str]:
    """Ours, without what would change a contestant behind our back: each is measured on its defaults."""
    return {key: value for key, value in os.environ.items() if not key.startswith("FLOWS_") and key != "REDIS_URL"}
