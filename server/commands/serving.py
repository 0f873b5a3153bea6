"""Serving until told to stop: the service, or the demo agents."""

import asyncio
import math
import os
import shlex
import signal
import socket
from collections.abc import Mapping
from typing import Any

import structlog

from server.app import create_app
from server.commands.warning import warn
from server.listening import listen, serving, url_at, url_of
from server.logs import configure_logs
from server.runtime import open_runtime
from server.settings import Settings, read_settings

_SPARE_SECONDS = 5

log = structlog.get_logger()


def run_service(options: Mapping[str, Any]) -> None:
    """Serve the flow that the settings name; `options` that are given override them."""
    given = {name: value for name, value in options.items() if value is not None}
    settings = read_settings().model_copy(update=given)
    configure_logs(settings.log_level)
    warn(settings, os.environ)
    asyncio.run(_serve(settings))


def run_demo_agents(host: str) -> None:
    """Serve the ten demo agents."""
    configure_logs("info")
    asyncio.run(_serve_demo_agents(host))


def demo_agents_environment(host: str) -> str:
    """Return the shell commands that send a service to the demo agents at `host`."""
    from server.demo_agents import AGENTS, variables

    urls = {name: url_at(host, agent.port) for name, agent in AGENTS.items()}
    return "\n".join(f"export {name}={shlex.quote(url)}" for name, url in variables(urls).items())


def listen_for_service(settings: Settings) -> socket.socket:
    """Return the socket on which the settings want the service; raises `CannotListen`."""
    return listen("the service", settings.host, settings.port, host_setting="FLOWS_HOST", port_setting="FLOWS_PORT")


def grace_of(settings: Settings) -> int:
    """Return how many seconds a stopping service gives its requests: the longest turn, and its answer's way out."""
    return math.ceil(settings.turn_timeout_seconds) + _SPARE_SECONDS


async def stopped() -> None:
    """Return on Ctrl-C or SIGTERM."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    await stop.wait()


async def _serve(settings: Settings) -> None:
    stop = asyncio.create_task(stopped())
    with listen_for_service(settings) as listener:
        async with (
            open_runtime(settings) as runtime,
            serving(create_app(settings, runtime), listener, grace=grace_of(settings)),
        ):
            log.info("serving", url=url_of(listener), flow=runtime.routes.flow.flow, checkpointer=runtime.store.kind)
            await stop
            log.info("stopping")
            runtime.stopping.set()


async def _serve_demo_agents(host: str) -> None:
    from server.demo_agents import serve

    stop = asyncio.create_task(stopped())
    async with serve(host) as urls:
        for name, url in urls.items():
            log.info("demo agent", name=name, url=url)
        await stop
