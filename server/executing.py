"""Beginning, finding, answering and ending executions, for every door that speaks of them."""

import asyncio
import json
import uuid
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from graph.flow import Flow
from graph.store.calls import CallRecord, OpenTurn
from graph.store.names import decode, thread_name
from nodes.person import worth
from nodes.schemas import misfit
from nodes.state import Step
from server.executions import Execution, Status
from server.problems import BadInput, ExecutionEnded, ExecutionNotFound, NotWaiting
from server.runtime import Runtime
from server.turn import Begun, Started, Taken, TurnRequest
from server.workflows import is_workflow

_BATCH = 100


class Executions:
    """The executions of a service.

    Args:
        runtime: what the service holds open.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._turns = runtime.turns
        self._flows = runtime.flows
        self._calls = runtime.store.calls
        self._tenant = runtime.settings.tenant

    async def find(self, execution_id: str) -> Execution:
        """Return an execution as the store has it now.

        Raises:
            ExecutionNotFound: if there is none.
            StoreError: if the store failed.
        """
        record = await self._calls.read(self.thread(execution_id))
        if record is None:
            raise ExecutionNotFound(f"there is no execution {execution_id!r}; it never began, or has expired")
        return await self._of(execution_id, record)

    async def begin(self, request: TurnRequest, once_begun: Begun | None = None) -> Started | Taken:
        """Begin what goes on by itself; raises what `Turns.start` raises."""
        return await self._turns.start(request, once_begun=once_begun)

    async def run(self, request: TurnRequest, *, wait: bool, once_begun: Begun | None = None) -> Execution:
        """Begin, wait for the end if that is wanted, and return the execution; raises what `Turns.take` raises."""
        started = await self.begin(request, once_begun)
        if wait and isinstance(started, Started):
            await asyncio.wait({started.taking})  # not awaited itself: it would be cancelled with whoever waits
            if not started.taking.cancelled() and (error := started.taking.exception()):
                raise error
        return await self.find(request.call_identify_id)

    async def answer(self, execution_id: str, answer: Any, *, step: str | None, wait: bool) -> Execution:
        """Answer the question that an execution waits with, and let it go on; where several wait, that of a step.

        Raises:
            ExecutionNotFound: if there is none.
            NotWaiting: if it waits for nobody, or another answer was first.
            BadInput: if the answer is not what was asked for.
            StoreError: if the store failed.
        """
        waiting = await self.find(execution_id)
        stage, question = _asked(waiting, step)
        if isinstance(answer, str):
            answer = worth(answer, question["schema"])
        if wrong := misfit(answer, question["schema"]):
            raise BadInput([{"field": "answer", "message": f"{wrong}; see the question's schema"}])
        words = answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False)
        said = TurnRequest(execution_id, None, None, words, answer=answer, answer_for=stage, run=waiting.run)
        return await self.run(said, wait=wait, once_begun=self._still_asked(waiting, stage))

    def _still_asked(self, waiting: Execution, stage: str) -> Begun:
        """Return what finds out, once the answer has the call for itself, that it was not answered meanwhile."""
        at_once = waiting.flow is not None and waiting.flow.is_dag  # other questions may be answered meanwhile

        def concerns_it(step: Step) -> bool:
            return not at_once or (step["stage"] == stage and not step.get("sums_up"))

        asked_in = max((step["number"] for step in waiting.trail if concerns_it(step)), default=0)

        async def look(turn: OpenTurn, _: int) -> None:
            since = await self._calls.look(turn.thread, asked_in)
            if since is None or any(map(concerns_it, since.steps)):
                asked = waiting.named(stage)
                raise NotWaiting(f"what step {asked!r} asks was answered meanwhile; see what is asked now")

        return look

    async def cancel(self, execution_id: str) -> Execution:
        """End an execution, whatever is at work in it.

        Raises:
            ExecutionNotFound: if there is none.
            ExecutionEnded: if it had ended.
            Busy: if what is at work would not end in time.
            StoreError: if the store failed.
        """
        found = await self.find(execution_id)
        if not found.state.get("ended"):
            await self._turns.cancel(execution_id, found.run)
            found = await self.find(execution_id)
            if found.status == "canceled":
                return found
        raise ExecutionEnded(f"execution {execution_id!r} is {found.status}; there is nothing to cancel")

    async def remove(self, execution_id: str) -> None:
        """Remove everything that is kept of an execution.

        Raises:
            ExecutionNotFound: if there is none.
            Busy: if it is running.
            StoreError: if the store failed.
        """
        if not await self._turns.end(execution_id):
            raise ExecutionNotFound(f"there is no execution {execution_id!r}; it never began, or has expired")

    async def listed(self, flow: str | None, status: Status | None) -> AsyncGenerator[Execution, None]:
        """Yield executions, the one that moved last first: of a flow, or of all flows that run by themselves."""
        calls = [decode(thread.partition("__")[2]) for thread in await self._calls.recent(self._tenant)]
        for start in range(0, len(calls), _BATCH):
            some = calls[start : start + _BATCH]
            records = await self._calls.trails([self.thread(call) for call in some])
            for call, record in zip(some, records, strict=True):
                if record is None or not self._is_wanted(record, flow):
                    continue
                whole = await self._calls.read(self.thread(call))
                found = await self._of(call, whole) if whole else None
                if found and status in (None, found.status):
                    yield found

    def _is_wanted(self, record: CallRecord, flow: str | None) -> bool:
        name = _flow_of(record)
        if flow is not None or name is None:
            return name == flow
        if is_workflow(name):
            return True
        return name in self._flows.names() and self._flows.current(name).flow.waits_for == "nothing"

    async def _of(self, execution_id: str, record: CallRecord) -> Execution:
        version = await self._flows.version_of(record.state or {"flow": _flow_of(record)}, record.version)
        flow = version.flow if version else None
        execution = Execution(execution_id, record, flow)
        return Execution(execution_id, record, flow, is_workflow(execution.flow_name))

    def thread(self, execution_id: str) -> str:
        """Return the thread of an execution."""
        return thread_name(self._tenant, execution_id)


def new_id() -> str:
    """Return a name for an execution that was given none."""
    return uuid.uuid4().hex


def known_inputs(flow: Flow, given: Mapping[str, Any], name_of: Mapping[str, str], where: str) -> dict[str, Any]:
    """Return what a run of the flow begins with, by the flow's own names; what the flow does not read is left out.

    Args:
        flow: the flow.
        given: what was sent.
        name_of: for each of the flow's inputs, the name that the client knows it by.
        where: the field that it was sent in.

    Raises:
        BadInput: naming everything that the flow reads and was not given.
    """
    missing = [name_of[name] for name in flow.inputs if name_of[name] not in given]
    if missing:
        raise BadInput(
            [{"field": f"{where}.{name}", "message": "it is missing; the flow reads it"} for name in missing]
        )
    return {name: given[name_of[name]] for name in flow.inputs}


def _flow_of(record: CallRecord) -> str | None:
    """Return the flow of a call whose state was not read."""
    if record.version:
        return record.version.partition(" ")[0]
    if record.opened and record.opened.said.get("flow"):
        said: str = record.opened.said["flow"]
        return said
    return record.steps[-1].get("flow") if record.steps else None


def _asked(waiting: Execution, step: str | None) -> tuple[str, dict[str, Any]]:
    """Return the stage whose question is to be answered, and the question.

    Raises:
        NotWaiting: if nobody is asked.
        BadInput: if it is not clear, or wrong, which question is meant.
    """
    questions = waiting.questions
    if not questions:
        raise NotWaiting(f"execution {waiting.id!r} is {waiting.status} and asks nobody")
    meant = {stage: asked for stage, asked in questions.items() if step in (None, asked["step"])}
    if len(meant) != 1:
        steps = ", ".join(asked["step"] for asked in questions.values())
        raise BadInput([{"field": "step", "message": f"name the step whose question this answers: {steps}"}])
    return next(iter(meant.items()))
