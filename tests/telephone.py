"""A caller's side of one call over any flow, and agents in this process: for stories of the graph alone."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from graph import TurnContext, build_graph, steps_of
from graph.loader import load_flow, parse_flow
from nodes.ports import AgentCaller, AgentRequest, Chunk, Progress, Reply, TaskState, Tell
from nodes.remote.errors import Disconnected

CONFIG: Any = {"configurable": {"thread_id": "CALL-1"}}
FIRST: Any = {"call_identify_id": "CALL-1", "account_id": "A", "eci": "E"}

DESKS = """\
flow: desks
waits_for: caller
restarts: true
agents: {front: {url: "http://front:1"}, vault: {url: "http://vault:2"}, help: {url: "http://help:3"}}
stages:
  hello: {intents: {greet: front, check: help}}
  pay: {intents: {pay: vault}, effect: write, on_error: fail}
fallback: help
triggers: {greet: [hello], pay: ["pay*"]}
"""


class Desk:
    """Reaches agents that do what the message says, and remembers what they heard."""

    def __init__(self) -> None:
        self.asked: list[AgentRequest] = []
        self.told_to_cancel: list[AgentRequest] = []
        self.at_work = asyncio.Event()
        self.left = asyncio.Event()
        """Set once nobody waits for the work any more."""
        self.cancels: Callable[[AgentRequest], TaskState | None] = lambda request: "canceled"

    async def call(self, request: AgentRequest, tell: Tell | None = None) -> Reply:
        self.asked.append(request)
        task_id = request.task_id or f"task-{len(self.asked)}"
        if request.text == "break":
            raise Disconnected(request.agent, "the line went dead")
        if request.text.startswith("work"):
            await self._work(task_id, tell)
        states: dict[str, TaskState] = {"fail": "failed", "ask": "input-required"}
        state = states.get(request.text, "completed")
        return Reply(f"you said {request.text}", (), (), state, task_id, request.context_id, {"of": task_id})

    async def _work(self, task_id: str, tell: Tell | None) -> None:
        assert tell is not None
        tell(Progress(task_id, "working", ({"text": "one moment"},)))
        tell(Chunk({"artifactId": "a", "name": "bill", "parts": [{"text": "your"}]}, append=False, last=False))
        tell(Chunk({"artifactId": "a", "parts": [{"text": " bill"}]}, append=True, last=True))
        self.at_work.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.left.set()

    async def cancel(self, request: AgentRequest) -> TaskState | None:
        self.told_to_cancel.append(request)
        return self.cancels(request)

    async def find(self, request: AgentRequest) -> Reply | None:
        return None


class Phone:
    """One call over a flow."""

    def __init__(self, flow: str, caller: AgentCaller, env: dict[str, str] | None = None) -> None:
        loaded = load_flow("relay", env or {}) if flow == "relay" else parse_flow(flow, "desks.yaml", {})
        self.graph: Any = build_graph(loaded, caller=caller)

    async def say(
        self, words: str, intent: str | None = None, context: TurnContext | None = None, **more: Any
    ) -> dict[str, Any]:
        """The state after one turn."""
        said = {**FIRST, "input_message": words, "intent": intent, **more}
        state = await self.graph.ainvoke(said, CONFIG, context=context or TurnContext())
        return dict(state)

    async def cut_short(self, desk: Desk, words: str, intent: str | None = None) -> dict[str, Any]:
        """The state after a turn that was canceled while the agent was at work."""
        cancel = asyncio.Event()
        turn = asyncio.create_task(self.say(words, intent, TurnContext(cancel=cancel)))
        await desk.at_work.wait()
        cancel.set()
        return await turn

    async def cancel(self) -> dict[str, Any]:
        """The state after a turn that only ends the call."""
        context = TurnContext(cancel=asyncio.Event())
        assert context.cancel is not None
        context.cancel.set()
        return await self.say("", "unknown", context)

    async def trail(self) -> list[Any]:
        return list(await steps_of(self.graph, CONFIG))


def told(story: Callable[[Desk], Coroutine[Any, Any, Any]]) -> Any:
    """Run a story with a desk of its own; nothing of it may be left running."""

    async def run() -> Any:
        result = await story(Desk())
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return result

    return asyncio.run(run())
