"""`flows demo`: the ten demo agents, the service, and one call walked through all five stages over HTTP."""

import asyncio
import os
import secrets
from contextlib import AsyncExitStack
from typing import Any

import httpx
from rich.console import Console
from rich.markup import escape

from server.app import create_app
from server.commands.serving import stopped
from server.commands.showing import show_answer, show_request, show_summary
from server.listening import listen, serving, url_of
from server.logs import configure_logs
from server.runtime import open_runtime
from server.settings import Settings, read_settings

CALL: list[dict[str, str]] = [
    {"input_message": "Hello, I need help", "intent": "greeting"},
    {"input_message": "My SSN is 123-45-6789", "intent": "verify_identity"},
    {"input_message": "I was charged twice, I want a refund of $49.99"},
    {"input_message": "Yes, please go ahead", "intent": "process_refund"},
    {"input_message": "That is all, thank you", "intent": "closing"},
]
"""What the demo's caller says. The third turn leaves the intent out."""


class DemoFailed(OSError):
    """The demo's call did not go through all five stages."""


def run_demo(*, once: bool) -> None:
    """Run the demo; keep serving afterwards unless `once`.

    Raises:
        PortInUse: if a port of ours is taken.
        DemoFailed: if the call was not completed.
    """
    settings = read_settings().model_copy(update={"flow": "call"})
    configure_logs("warning")
    asyncio.run(_demo(settings, once=once))


async def _demo(settings: Settings, *, once: bool) -> None:
    from server.demo_agents import serve

    console = Console()
    stop = asyncio.create_task(stopped())
    remedy = "stop what listens there, or set FLOWS_PORT to another port"
    with listen("the service", settings.host, settings.port, remedy=remedy) as listener:
        async with AsyncExitStack() as stack:
            agents = await stack.enter_async_context(serve())
            env = {f"{name.upper()}_AGENT_URL": url for name, url in agents.items()}
            runtime = await stack.enter_async_context(open_runtime(settings, {**env, **os.environ}))
            await stack.enter_async_context(serving(create_app(settings, runtime), listener))
            console.rule(f"{len(agents)} agents and the service are up; the store is {runtime.store.kind}")
            url = url_of(listener)
            call = await _walk(console, url)
            if not once:
                _show_addresses(console, url, call)
                await stop
    stop.cancel()


async def _walk(console: Console, url: str) -> str:
    """Take the call's five turns and return its name."""
    call = f"DEMO-{secrets.token_hex(3).upper()}"
    who = {"call_identify_id": call, "account_id": "ACC-999", "eci": "ECI-7"}
    async with httpx.AsyncClient(base_url=url, timeout=30) as client:
        told: dict[str, Any] = {}
        for said in CALL:
            sent = {**who, **said}
            show_request(console, sent)
            answer = await client.post("/orchestrate", json=sent)
            told = answer.json()
            if answer.status_code != httpx.codes.OK or told["status"] != "success":
                raise DemoFailed(f"the call stopped at {said['input_message']!r}: {told}")
            show_answer(console, told)
    if not told["is_complete"]:
        raise DemoFailed(f"the call is not complete after its last turn: {told}")
    show_summary(console, told["session_summary"])
    return call


def _show_addresses(console: Console, url: str, call: str) -> None:
    console.print(
        f"""
[bold]Try next[/bold] (Ctrl-C ends the demo)
  {escape(url)}/docs                       the API, to try in a browser
  {escape(url)}/session/{call}        the finished call
  {escape(url)}/session/{call}/steps  its audit trail
  {escape(url)}/session/{call}/history  its state after each turn
  http://127.0.0.1:8003/ledger                    what the refund agent paid
  [cyan]flows call[/cyan]                                      a call of your own, in another terminal
""",
        highlight=False,
        soft_wrap=True,
    )
