"""Serving until told to stop: the service, or the demo agents."""

import asyncio
import gc
import math
import os
import shlex
import signal
import socket
from collections.abc import Mapping
from typing import Any

import structlog

from graph.store.errors import StoreError
from server.app import create_app
from server.commands.warning import warn
from server.flows import Flows
from server.listening import listen, serving, url_at, url_of
from server.logs import configure_logs
from server.loop import run_in_loop
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
    run_in_loop(_serve(settings))


def run_demo_agents(host: str) -> None:
    """Serve the demo agents, each at its own port."""
    configure_logs("info")
    run_in_loop(_serve_demo_agents(host))


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
    stop, hangups = asyncio.create_task(stopped()), asyncio.Queue[None]()
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, hangups.put_nowait, None)
    with listen_for_service(settings) as listener:
        async with (
            open_runtime(settings) as runtime,
            serving(create_app(settings, runtime), listener, grace=grace_of(settings)),
        ):
            reloading = asyncio.create_task(_reload_when_asked(runtime.flows, hangups))
            _settle_down()
            log.info("serving", url=url_of(listener), flow=runtime.routes.flow.flow, checkpointer=runtime.store.kind)
            await stop
            log.info("stopping", in_seconds=settings.drain_seconds)
            runtime.draining.set()
            await asyncio.sleep(settings.drain_seconds)
            reloading.cancel()
            runtime.stopping.set()


def _settle_down() -> None:
    """Spare the garbage collector what was made at the start and stays: it would look through all of it now and then,
    for a tenth of a second, while turns wait."""
    gc.collect()
    gc.freeze()


async def _reload_when_asked(flows: Flows, hangups: asyncio.Queue[None]) -> None:
    """Read the flows again with each SIGHUP, and log what came of it; stop if our terminal is what hung up."""
    had_terminal = _has_terminal()
    while True:
        await hangups.get()
        if had_terminal and not _has_terminal():
            signal.raise_signal(signal.SIGTERM)
            return
        try:
            await flows.reload()
        except StoreError as error:
            log.warning("flows not reloaded", reason=str(error))


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True


async def _serve_demo_agents(host: str) -> None:
    from server.demo_agents import serve

    stop = asyncio.create_task(stopped())
    async with serve(host) as urls:
        for name, url in urls.items():
            log.info("demo agent", name=name, url=url)
        await stop
