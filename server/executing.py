"""Beginning, finding, answering and ending executions, for every door that speaks of them."""

import asyncio
import json
import uuid
from collections.abc import AsyncGenerator, Mapping
from dataclasses import replace
from typing import Any

from graph.flow import Flow
from graph.routing import Refused
from graph.store.calls import CallRecord, OpenTurn
from graph.store.errors import Busy
from graph.store.names import decode, thread_name
from graph.store.reading import NO_STEPS
from nodes.person import worth
from nodes.schemas import misfit
from nodes.state import Step
from server.executions import Execution, Status
from server.problems import BadInput, ExecutionEnded, ExecutionNotFound, NotWaiting
from server.runtime import Runtime
from server.turn import Begun, Started, Taken, TurnRequest, must_say_the_same
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
        return await self._turns.in_time(request, self._run(request, wait, once_begun))

    async def _run(self, request: TurnRequest, wait: bool, once_begun: Begun | None) -> Execution:
        if not wait and (at_work := await self._at_work(request)):
            return at_work
        started = await self.begin(request, once_begun)
        if wait and isinstance(started, Started):
            await asyncio.wait({started.taking})  # not awaited itself: it would be cancelled with whoever waits
            if not started.taking.cancelled() and (error := started.taking.exception()):
                raise error
        return await self.find(request.call_identify_id)

    async def _at_work(self, request: TurnRequest) -> Execution | None:
        """Return the execution that is at work on this very message; None if none is."""
        thread = self.thread(request.call_identify_id)
        record = await self._calls.look(thread, NO_STEPS) if request.key else None
        opened = record.opened if record else None
        if opened is None or not opened.live or opened.said.get("key") != request.key:
            return None
        must_say_the_same(request, opened.said.get("body", ""))
        return await self.find(request.call_identify_id)

    async def answer(
        self, execution_id: str, answer: Any, *, step: str | None, wait: bool, key: str | None = None, body: str = ""
    ) -> Execution:
        """Answer the question that an execution waits with, and let it go on; where several wait, that of a step.

        Args:
            execution_id: the execution.
            answer: the answer.
            step: whose question it answers.
            wait: whether to return when it has ended, or waits again.
            key: names this very answer: given again, it is not an answer to what is asked by then.
            body: a hash of what was sent under the key.

        Raises:
            ExecutionNotFound: if there is none.
            NotWaiting: if it waits for nobody, or another answer was first.
            BadInput: if the answer is not what was asked for.
            KeyReused: if the key named another answer.
            StoreError: if the store failed.
        """
        waiting = await self.find(execution_id)
        said = TurnRequest(execution_id, None, None, "", answer=answer, run=waiting.run, key=key, body=body)
        try:
            said, stage = _fitting(waiting, said, step)
        except (NotWaiting, BadInput) as error:
            if key is None:
                raise
            return await self._answered_before(said, wait, error)
        return await self.run(said, wait=wait, once_begun=self._still_asked(waiting, stage))

    async def _answered_before(self, said: TurnRequest, wait: bool, error: Exception) -> Execution:
        """Return the execution if this very answer was given to it; else raise why it cannot be given."""

        async def refuse(turn: OpenTurn, run: int) -> None:
            raise error

        try:
            return await self.run(replace(said, waits=False), wait=wait, once_begun=refuse)
        except (Refused, Busy):
            raise error from None

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


def _fitting(waiting: Execution, said: TurnRequest, step: str | None) -> tuple[TurnRequest, str]:
    """Return an answer in the form that its question wants, and the stage that asks; raises what `_asked` does."""
    stage, question = _asked(waiting, step)
    answer = worth(said.answer, question["schema"]) if isinstance(said.answer, str) else said.answer
    if wrong := misfit(answer, question["schema"]):
        raise BadInput([{"field": "answer", "message": f"{wrong}; see the question's schema"}])
    words = answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False)
    return replace(said, input_message=words, answer=answer, answer_for=stage), stage


def _asked(waiting: Execution, step: str | None) -> tuple[str, dict[str, Any]]:
    """Return the stage whose question is to be answered, and the question.

    Raises:
        NotWaiting: if nobody is asked.
        BadInput: if it is not clear, or wrong, which question is meant.
    """
    questions = waiting.questions
    if not questions:
        how = "waits for a parked write to be settled" if waiting.parked else f"is {waiting.status}"
        raise NotWaiting(f"execution {waiting.id!r} {how} and asks nobody")
    meant = {stage: asked for stage, asked in questions.items() if step in (None, asked["step"])}
    if len(meant) != 1:
        steps = ", ".join(asked["step"] for asked in questions.values())
        raise BadInput([{"field": "step", "message": f"name the step whose question this answers: {steps}"}])
    return next(iter(meant.items()))
