"""Who competes and how each is started: the service on two stores, and the hand-written peer."""

import os
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal, get_args

from bench.processes import Running, free_port, http_answers, http_ready, running, running_redis

Name = Literal["core", "langgraph-redis", "handwritten"]
NAMES: tuple[Name, ...] = get_args(Name)
PEER: Name = "handwritten"

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
async def running_service(name: Name, agent: Running, redis_port: int) -> AsyncIterator[Running]:
    """One contestant, on the Redis behind that port."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="bench-") as data:
        shared = {f"{agent_name}_AGENT_URL": agent.url for agent_name in AGENTS}
        shared["REDIS_URL"] = f"redis://127.0.0.1:{redis_port}/0"
        env = _environment() | shared | _own_environment(name, port, data)
        async with running(name, _command(name), env, port, http_ready) as service:
            yield service


@asynccontextmanager
async def running_contestant(name: Name, agent: Running) -> AsyncIterator[Running]:
    """One contestant, on a Redis of its own."""
    async with running_redis() as redis, running_service(name, agent, redis.port) as service:
        yield service


def _command(name: Name) -> list[str]:
    if name == PEER:
        return [sys.executable, "-m", "bench.handwritten"]
    return [str(Path(sys.executable).with_name("flows")), "serve"]


def _own_environment(name: Name, port: int, data: str) -> dict[str, str]:
    if name == PEER:
        return {"PORT": str(port)}
    return {
        "FLOWS_PORT": str(port),
        "FLOWS_HOST": "127.0.0.1",
        "FLOWS_DATA_DIR": data,
        "FLOWS_CHECKPOINTER": name,
    }


def _environment() -> dict[str, str]:
    """Ours, without what would change a contestant behind our back: each is measured on its defaults."""
    return {key: value for key, value in os.environ.items() if not key.startswith("FLOWS_")}
