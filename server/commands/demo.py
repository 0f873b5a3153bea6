"""`flows demo`: the demo agents, the service, and one call walked through all five stages over HTTP."""

import asyncio
import os
import secrets
import shlex
import shutil
import sys
from collections.abc import Coroutine, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx
from rich.console import Console

from server.app import create_app
from server.commands.serving import grace_of, listen_for_service, stopped
from server.commands.showing import open_console, show_answer, show_request, show_summary
from server.commands.talking import DEFAULT_URL
from server.commands.warning import warn
from server.listening import serving, url_of
from server.logs import configure_logs
from server.loop import run_in_loop
from server.runtime import Runtime, open_runtime
from server.settings import Settings, read_settings

CALL: list[dict[str, str]] = [
    {"input_message": "Hello, I need help", "intent": "greeting"},
    {"input_message": "My SSN is 123-45-6789", "intent": "verify_identity"},
    {"input_message": "I was charged twice, I want a refund of $49.99"},
    {"input_message": "Yes, please go ahead", "intent": "process_refund"},
    {"input_message": "That is all, thank you", "intent": "closing"},
]
"""What the demo's caller says. The third turn leaves the intent out."""

Done = TypeVar("Done")


class DemoFailed(OSError):
    """The demo's call did not go through all five stages."""


def run_demo(*, once: bool) -> None:
    """Run the demo; keep serving afterwards unless `once`.

    Raises:
        CannotListen: if a port of ours is taken, or the host is not this machine.
        DemoFailed: if the call was not completed.
    """
    settings = read_settings().model_copy(update={"flow": "call"})
    configure_logs("warning")
    warn(settings, os.environ)
    run_in_loop(_demo(settings, once=once))


async def _demo(settings: Settings, *, once: bool) -> None:
    from server.demo_agents import serve, variables

    console = open_console()
    stop = asyncio.create_task(stopped())
    with listen_for_service(settings) as listener:
        async with AsyncExitStack() as stack:
            agents = await stack.enter_async_context(serve())
            runtime = await stack.enter_async_context(open_runtime(settings, {**variables(agents), **os.environ}))
            app = create_app(settings, runtime)
            await stack.enter_async_context(serving(app, listener, grace=grace_of(settings)))
            console.rule(f"{len(agents)} agents and the service are up")
            console.print(f"calls are kept {_where_calls_are_kept(runtime)}\n", markup=False, highlight=False)
            call = await _unless(stop, _walk(console, url_of(listener)))
            if not once:
                _show_addresses(console, url_of(listener), agents, call)
                await stop
    stop.cancel()


async def _unless(stop: asyncio.Task[None], work: Coroutine[Any, Any, Done]) -> Done:
    """Return what `work` returns; give it up as soon as `stop` is done."""
    task = asyncio.create_task(work)
    try:
        await asyncio.wait((task, stop), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise DemoFailed("stopped before the call was complete")
        return task.result()
    finally:
        task.cancel()
        await asyncio.wait((task,))


async def _walk(console: Console, url: str) -> str:
    """Take the call's five turns and return its name."""
    call = f"DEMO-{secrets.token_hex(3).upper()}"
    who = {"call_identify_id": call, "account_id": "ACC-999", "eci": "ECI-7"}
    told: dict[str, Any] = {}
    # The service is in this very process: whatever HTTP_PROXY says, no proxy stands between.
    async with httpx.AsyncClient(base_url=url, timeout=30, trust_env=False) as client:
        for said in CALL:
            sent = {**who, **said}
            show_request(console, sent)
            told = await _turn(client, sent)
            show_answer(console, told)
    if not told["is_complete"]:
        raise DemoFailed(f"the call is not complete after its last turn: {told}")
    show_summary(console, told["session_summary"])
    return call


async def _turn(client: httpx.AsyncClient, sent: Mapping[str, str]) -> dict[str, Any]:
    try:
        answer = await client.post("/orchestrate", json=sent)
        told: dict[str, Any] = answer.json()
    except (httpx.HTTPError, ValueError) as error:
        raise DemoFailed(f"the call stopped at {sent['input_message']!r}: the service answered {error!r}") from error
    if answer.status_code != httpx.codes.OK or told["status"] != "success":
        raise DemoFailed(f"the call stopped at {sent['input_message']!r}: {told}")
    return told


def _where_calls_are_kept(runtime: Runtime) -> str:
    settings = runtime.settings
    if runtime.store.kind == "memory":
        return "in memory, until the demo ends"
    if settings.redis_url is None:
        return f"in {settings.data_dir} (embedded store)"
    address = urlsplit(settings.redis_url.get_secret_value())  # of which only these parts are free of passwords
    where = f"{address.hostname}:{address.port or 6379}" if address.hostname else address.path
    return f"in the Redis at {where}"


def _show_addresses(console: Console, url: str, agents: Mapping[str, str], call: str) -> None:
    address = "" if url == DEFAULT_URL else f" --url {url}"
    rows = [
        (f"{url}/docs", "the API, to try in a browser"),
        (f"{url}/session/{call}", "the finished call"),
        (f"{url}/session/{call}/steps", "its audit trail"),
        (f"{url}/session/{call}/history", "its state after each turn"),
        (f"{agents['refund']}/ledger", "what the refund agent paid"),
        (f"{_this_command()} call{address}", "a call of your own, in another terminal"),
    ]
    width = max(len(what) for what, _ in rows)
    console.print("\n[bold]Try next[/bold] (Ctrl-C ends the demo)", highlight=False)
    for what, why in rows:
        console.print(f"  {what:<{width}}  {why}", markup=False, highlight=False, soft_wrap=True)


def _this_command() -> str:
    """Return what starts `flows` again in the same folder: its name where it is on the PATH, else the way to it."""
    running, on_path = Path(sys.argv[0]), shutil.which("flows")
    if on_path and running.exists() and running.samefile(on_path):
        return "flows"
    return shlex.quote(sys.argv[0]) if running.name == "flows" else f"{shlex.quote(sys.executable)} -m server.cli"
