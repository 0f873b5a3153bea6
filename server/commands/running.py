"""`flows run`: one run of a flow in this very process, its stages lighting up on the terminal as they are passed.

The graph streams what happens; between its streams the terminal is asked for what the run waits for.
"""

import asyncio
import json
import secrets
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, cast

from langchain_core.runnables import RunnableConfig
from rich.console import Console
from rich.live import Live

from graph.builder import CallGraph, build_graph
from graph.classifier import choose_classifier
from graph.flow import Flow
from graph.loader import load_flow
from graph.models import choose_model
from graph.routing import Refused
from nodes.outcome import WAITS
from nodes.ports import TurnContext
from nodes.remote import Caller, open_client
from nodes.steps import response_text
from server.commands.asking import Terminal
from server.commands.inputs import inputs_of
from server.commands.progress import Progress, lasting, line_of
from server.commands.showing import open_console
from server.logs import configure_logs
from server.settings import Settings, read_settings

How = Literal["completed", "failed", "canceled", "waits"]

DONE, FAILED, WAITING, INTERRUPTED = 0, 1, 3, 130
"""What the command exits with. `WAITING`: somebody has to answer, and nobody is at a terminal to do so."""
_NOT_SAID = "unknown"
_HELP = "Type what the caller says; /as INTENT WORDS sends an intent along, /quit ends."


@dataclass(frozen=True, slots=True)
class Given:
    """What the command was given."""

    context: Mapping[str, Any]
    """The values of the flow's `inputs`."""
    message: str | None
    intent: str | None
    as_json: bool


def run_flow(
    name: str,
    inputs: Sequence[str],
    inputs_json: str | None,
    message: str | None,
    intent: str | None,
    *,
    as_json: bool,
) -> int:
    """Run a flow to its end, or as far as there is somebody to answer; return the exit code.

    Raises:
        graph.loader.FlowError: if there is no such flow or it does not check.
        server.commands.inputs.BadInput: if the inputs are not those that the flow names.
        server.settings.SettingsError: if a setting makes no sense.
    """
    flow, settings = load_flow(name), read_settings()
    configure_logs("error")
    given = Given(inputs_of(flow, inputs, inputs_json), message, intent, as_json)
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        run = _Run(flow, runner.run(_opened(flow, settings, stack)), given)
        try:
            return run.go(runner)
        except (KeyboardInterrupt, asyncio.CancelledError):
            return run.end("canceled")
        finally:
            runner.run(stack.aclose())


async def _opened(flow: Flow, settings: Settings, stack: AsyncExitStack) -> CallGraph:
    """Compile the flow, with its agents at their addresses and a model if there is a key."""
    caller = Caller(open_client(), max_reply_bytes=settings.max_reply_bytes)
    key = settings.openai_api_key.get_secret_value() if settings.openai_api_key else None
    base_url = settings.openai_base_url.get_secret_value() if settings.openai_base_url else None
    classifier = choose_classifier(key, model=settings.openai_model, base_url=base_url)
    model = choose_model(key, model=settings.openai_model, base_url=base_url)
    closers: list[Any] = [one for one in (caller, classifier, model) if one is not None]
    for opened in closers:
        stack.push_async_callback(opened.aclose)
    return build_graph(
        flow,
        caller=caller,
        classifier=classifier,
        model=model,
        agent_timeout=settings.agent_timeout_seconds,
        classifier_timeout=settings.classifier_timeout_seconds,
    )


class _Run:
    """A run as it goes."""

    def __init__(self, flow: Flow, graph: CallGraph, given: Given) -> None:
        self._flow = flow
        self._graph = graph
        self._given = given
        self._call = f"RUN-{secrets.token_hex(4)}"
        self._config: RunnableConfig = {"configurable": {"thread_id": self._call}}
        self._state: Mapping[str, Any] = {}
        self._steps: dict[int, Mapping[str, Any]] = {}
        self._questions: Sequence[Any] = ()
        self._progress = Progress(flow)
        self._began = time.monotonic()
        self._console = open_console()
        self._terminal = Terminal(Console(stderr=True) if given.as_json else self._console)
        self._live = self._console.is_terminal and not given.as_json

    def go(self, runner: asyncio.Runner) -> int:
        """Run until the end, or until nobody answers; return the exit code."""
        inputs = self._first()
        while inputs is not None:
            try:
                runner.run(self._stream(inputs))
            except Refused as refusal:
                _complain(str(refusal))
                if self._given.message is not None or not self._terminal.is_manned:
                    return FAILED
            inputs = self._next()
        return self.end()

    def _first(self) -> Any:
        """Return what the run begins with; None if nobody says anything."""
        said: dict[str, Any] | None = {"input_message": self._given.message or "", "intent": self._given.intent}
        if self._given.message is None and self._flow.waits_for == "caller":
            if self._terminal.is_manned:
                self._terminal.show(_HELP)
            said = self._terminal.message()
        whose = {"call_identify_id": self._call, "account_id": _NOT_SAID, "eci": _NOT_SAID}
        return None if said is None else {**whose, "context": dict(self._given.context), **said}

    def _next(self) -> Any:
        """Return what the run goes on with; None if it is over, or nobody says anything."""
        if self._is_over():
            return None
        if self._questions:
            return self._terminal.answers(self._questions)
        last = self._last()
        waits = self._flow.waits_for == "caller" if self._given.message is None else False
        if not (waits or (self._agent_waits() and self._terminal.is_manned)):
            return None
        if last:
            self._terminal.show(response_text(last["response_data"]))
        return self._terminal.message()

    async def _stream(self, inputs: Any) -> None:
        """Let the graph run, and show how it gets on."""
        cancel = asyncio.Event()
        seconds = self._flow.turn_timeout
        deadline = asyncio.get_running_loop().time() + seconds if seconds else None
        context = TurnContext(deadline=deadline, streams=True, cancel=cancel, interrupts=True)
        live = Live(get_renderable=self._progress.table, console=self._console, refresh_per_second=10)
        with _interruptible(cancel), live if self._live else nullcontext():
            async for told in self._graph.astream(
                inputs, self._config, context=context, stream_mode=["custom", "updates", "values"]
            ):
                self._take(*cast(tuple[str, Any], told))
        self._questions = (await self._graph.aget_state(self._config)).interrupts

    def _take(self, mode: str, told: Mapping[str, Any]) -> None:
        if mode == "values":
            self._state = told
            self._steps |= {step["number"]: step for step in told.get("steps") or ()}
            return
        changed = self._progress.take(mode, told)
        if not (self._live or self._given.as_json):
            for row in changed:
                self._print(line_of(row))

    def _is_over(self) -> bool:
        return bool(self._state.get("is_complete") or self._state.get("ended"))

    def _last(self) -> Mapping[str, Any]:
        return self._steps[max(self._steps)] if self._steps else {}

    def _agent_waits(self) -> bool:
        return self._last().get("response_data", {}).get("task_state") in WAITS

    def end(self, how: How | None = None) -> int:
        """Tell what came of the run, and return the exit code."""
        how, code, reason = (how, INTERRUPTED, "stopped") if how else self._outcome()
        if self._given.as_json:
            print(json.dumps(self._document(how), indent=2, ensure_ascii=False))
        else:
            self._show(how)
        if code:
            _complain(reason)
        return code

    def _outcome(self) -> tuple[How, int, str]:
        """Return how the run stands, the exit code, and the reason for it."""
        last, ended = self._last(), self._state.get("ended")
        if ended == "canceled":
            return "canceled", INTERRUPTED, "stopped"
        if ended == "failed" or (not self._is_over() and last.get("response_status") == "error"):
            return "failed", FAILED, f"stage {last['stage']!r} failed: {response_text(last['response_data'])}"
        if self._is_over():
            return "completed", DONE, ""
        if self._questions:
            asked = "; ".join(
                f"stage {one.value['stage']!r} asks: {one.value['question']}" for one in self._questions
            )
            return "waits", WAITING, f"it waits for a person ({asked}); run it at a terminal to answer"
        if self._flow.waits_for == "caller":
            return "waits", DONE, ""
        return "waits", WAITING, f"agent {last.get('agent')!r} waits for an answer; run it at a terminal to give one"

    def _document(self, how: How) -> dict[str, Any]:
        return {
            "call_identify_id": self._call,
            "flow": self._flow.flow,
            "flow_digest": self._flow.digest,
            "status": how,
            "stage": self._state.get("stage"),
            "context": self._state.get("context", {}),
            "answer": self._last().get("response_data"),
            "questions": [one.value for one in self._questions],
            "steps": [self._steps[number] for number in sorted(self._steps)],
        }

    def _show(self, how: How) -> None:
        self._print(f"{self._flow.flow}: {how} in {lasting(time.monotonic() - self._began)}")
        for name, value in self._state.get("context", {}).items():
            self._print(f"{name} = {json.dumps(value, ensure_ascii=False)}")
        response = self._last().get("response_data", {}) if how == "completed" else {}
        told = [response_text(response), *(json.dumps(data, ensure_ascii=False) for data in response.get("data", ()))]
        for text in filter(None, told):
            self._print(text)

    def _print(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


def _complain(reason: str) -> None:
    for line in reason.splitlines():
        print(f"flows: {line}", file=sys.stderr)


@contextmanager
def _interruptible(cancel: asyncio.Event) -> Iterator[None]:
    """Let Ctrl-C end the run, and a second one whatever is left of it."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()

    def interrupt() -> None:
        if cancel.is_set() and task is not None:
            task.cancel()
        cancel.set()

    loop.add_signal_handler(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGINT)
