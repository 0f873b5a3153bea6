"""Serving until told to stop: the service, or the demo agents."""

import asyncio
import signal
from collections.abc import Mapping
from typing import Any

import structlog

from server.app import create_app
from server.listening import listen, serving, url_of
from server.logs import configure_logs
from server.runtime import open_runtime
from server.settings import Settings, read_settings

log = structlog.get_logger()


def run_service(options: Mapping[str, Any]) -> None:
    """Serve the flow that the settings name; `options` that are given override them."""
    given = {name: value for name, value in options.items() if value is not None}
    settings = read_settings().model_copy(update=given)
    configure_logs(settings.log_level)
    asyncio.run(_serve(settings))


def run_demo_agents(host: str) -> None:
    """Serve the ten demo agents."""
    configure_logs("info")
    asyncio.run(_serve_demo_agents(host))


async def stopped() -> None:
    """Return on Ctrl-C or SIGTERM."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    await stop.wait()


async def _serve(settings: Settings) -> None:
    stop = asyncio.create_task(stopped())
    remedy = "stop what listens there, or set FLOWS_PORT"
    with listen("the service", settings.host, settings.port, remedy=remedy) as listener:
        async with open_runtime(settings) as runtime, serving(create_app(settings, runtime), listener):
            log.info("serving", url=url_of(listener), flow=runtime.routes.flow.flow, checkpointer=runtime.store.kind)
            await stop
            log.info("stopping")


async def _serve_demo_agents(host: str) -> None:
    from server.demo_agents import serve

    stop = asyncio.create_task(stopped())
    async with serve(host) as urls:
        for name, url in urls.items():
            log.info("demo agent", name=name, url=url)
        await stop
