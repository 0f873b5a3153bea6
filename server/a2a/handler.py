"""What an A2A client may ask, answered by turns: `a2a-sdk` reads and writes both versions, turns do the work.

The SDK's own way of running an agent keeps a task of its own beside ours and each parked one in memory; so sending is
ours, and what only reads a task is the SDK's, over `CallTasks`.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import cast

from a2a.server.agent_execution.active_task import INTERRUPTED_TASK_STATES, TERMINAL_TASK_STATES
from a2a.server.agent_execution.agent_executor import AgentExecutor
from a2a.server.cluster import StoredTask, TaskVersion
from a2a.server.context import ServerCallContext
from a2a.server.events.event_queue import Event
from a2a.server.request_handlers.default_request_handler_v2 import DefaultRequestHandlerV2
from a2a.server.request_handlers.request_handler import validate_request_params
from a2a.types import a2a_pb2 as pb
from a2a.utils.errors import (
    InvalidParamsError,
    TaskNotCancelableError,
    TaskNotFoundError,
    UnsupportedOperationError,
)
from a2a.utils.proto_utils import validate_proto_required_fields
from a2a.utils.task import apply_history_length
from google.protobuf.json_format import MessageToDict, ParseDict

from graph.flow import Flow
from graph.store.calls import OpenedTurn, OpenTurn
from nodes.outcome import now
from nodes.timing import Timing
from server.a2a.errors import translated, translating
from server.a2a.incoming import deadline_in, given_inputs, read_message
from server.a2a.push import CallPushConfigs, version_of
from server.a2a.push_guard import PushGuard
from server.a2a.runs import Run, as_task, bare_message, read_task_id, status_of, task_id, task_of
from server.a2a.sending import sent_of
from server.a2a.tasks import CallTasks
from server.a2a.telling import Teller
from server.a2a.wording import Json, typed, whole
from server.deadlines import Wait, each_in_time
from server.following import follow_turn
from server.turn import Begun, Started, Taken, TurnRequest
from server.turns import Turns

_OVER = TERMINAL_TASK_STATES | INTERRUPTED_TASK_STATES


class FlowHandler(DefaultRequestHandlerV2):
    """Serves a flow as an A2A agent.

    Args:
        turns: takes the turns.
        tasks: reads the tasks.
        flow: the flow.
        tenant: whose calls these are.
        card: the public card.
        push_configs: where the clients' notification configurations are kept.
        guard: says which addresses may be notified.
    """

    def __init__(
        self,
        turns: Turns,
        tasks: CallTasks,
        flow: Flow,
        *,
        tenant: str,
        card: pb.AgentCard,
        push_configs: CallPushConfigs,
        guard: PushGuard,
    ) -> None:
        super().__init__(
            agent_executor=cast(AgentExecutor, None),  # only the SDK's own way of sending would use it
            task_store=tasks,
            event_stream=tasks,
            agent_card=card,
            push_config_store=push_configs,
            push_url_validator=guard.allowed,
        )
        self._turns = turns
        self._tasks = tasks
        self._flow = flow
        self._tenant = tenant
        self._push_configs = push_configs

    async def on_message_send(
        self, params: pb.SendMessageRequest, context: ServerCallContext
    ) -> pb.Message | pb.Task:
        """Do as `send`, for the sdk."""
        return _event(await self.send(sent_of(params), context))

    async def send(self, sent: Json, context: ServerCallContext) -> Json:
        """Take a turn, and answer with its task: after it, or as soon as it has begun if the client asks for that.

        Args:
            sent: the `SendMessageRequest`, as 1.0 writes it in JSON.
            context: of the request.

        Returns:
            The `SendMessageResponse`, likewise: a `task` or a `message`.

        Raises:
            A2AError: if the message is not answered.
        """
        with translated():
            wait = Wait(deadline_in(sent), Timing())
            answer = await self._turns.in_time(wait, self._sent(sent, context, wait))
        return _shortened(answer, sent)

    async def _sent(self, sent: Json, context: ServerCallContext, wait: Wait) -> Json:
        request, begun = await self._read(sent, context, wait)
        if sent.get("configuration", {}).get("returnImmediately"):
            return await self._answer_at_once(request, begun)
        return await self._answer(await self._turns.take(request, wants_trail=True, once_begun=begun))

    async def on_message_send_stream(
        self, params: pb.SendMessageRequest, context: ServerCallContext
    ) -> AsyncGenerator[Event, None]:
        """Start a turn that goes on without the client too, and stream what happens in it: its task first."""
        sent = sent_of(params)
        with translated():
            wait = Wait(deadline_in(sent), Timing())
            begun = await self._turns.in_time(wait, self._stream_begun(sent, context, wait))
            async with aclosing(each_in_time(wait, self._streamed(begun, params.configuration))) as events:
                async for event in events:
                    yield event

    async def _stream_begun(self, sent: Json, context: ServerCallContext, wait: Wait) -> StoredTask | Started | Taken:
        """Begin a turn, or find the task that is at work on the same message."""
        request, begun = await self._read(sent, context, wait)
        return await self._answered_now(request) or await self._turns.start(request, once_begun=begun)

    async def _streamed(
        self, started: StoredTask | Started | Taken, configuration: pb.SendMessageConfiguration
    ) -> AsyncGenerator[Event, None]:
        if isinstance(started, StoredTask):
            yield apply_history_length(started.task, configuration)
            async with aclosing(self._since(started.task.id, started.version)) as updates:
                async for update in updates:
                    yield update
            return
        if isinstance(started, Taken):
            answer = _event(await self._answer(started))
            yield apply_history_length(answer, configuration) if isinstance(answer, pb.Task) else answer
            return
        run = await self._run_at_start(started)
        yield apply_history_length(as_task(run, started.routes), configuration)
        async with aclosing(self._updates(started, run)) as updates:
            async for update in updates:
                yield update

    async def on_subscribe_to_task(
        self, params: pb.SubscribeToTaskRequest, context: ServerCallContext
    ) -> AsyncGenerator[Event, None]:
        """Stream a task, and what happens in it from then on, until its turn is over."""
        with translated():
            validate_proto_required_fields(params)
            found = await self._tasks.get(params.id, context)
            if found is None:
                raise TaskNotFoundError
            if found.task.status.state in TERMINAL_TASK_STATES:
                raise UnsupportedOperationError(
                    f"the task has ended ({pb.TaskState.Name(found.task.status.state)}); there is nothing to follow"
                )
            told, version = [found.task], found.version
            del found
            yield told.pop()  # nothing here keeps it: many follow tasks in which nothing happens, and for long
            async with aclosing(self._since(params.id, version)) as updates:
                async for update in updates:
                    yield update

    async def _since(self, task: str, version: TaskVersion) -> AsyncGenerator[Event, None]:
        """Yield what happens in a task after a version, until its turn is over."""
        async with aclosing(self._tasks.subscribe(task, after=version)) as subscription:
            async for versioned in subscription:
                yield versioned.event
                if isinstance(versioned.event, pb.TaskStatusUpdateEvent) and versioned.event.status.state in _OVER:
                    return

    on_get_task = translating(DefaultRequestHandlerV2.on_get_task)
    on_list_tasks = translating(DefaultRequestHandlerV2.on_list_tasks)
    on_create_task_push_notification_config = translating(
        DefaultRequestHandlerV2.on_create_task_push_notification_config
    )
    on_list_task_push_notification_configs = translating(
        DefaultRequestHandlerV2.on_list_task_push_notification_configs
    )
    on_delete_task_push_notification_config = translating(
        DefaultRequestHandlerV2.on_delete_task_push_notification_config
    )

    @translating
    async def on_get_task_push_notification_config(
        self, params: pb.GetTaskPushNotificationConfigRequest, context: ServerCallContext
    ) -> pb.TaskPushNotificationConfig:
        """Return a configuration; in 0.3, where its id may be left out, the task's first."""
        if not params.id and version_of(context) == "0.3":
            if await self._tasks.get(params.task_id, context):
                for first in await self._push_configs.get_info(params.task_id, context):
                    return first
            raise TaskNotFoundError("there is no such task, or it has no push notification configuration")
        found: pb.TaskPushNotificationConfig = await super().on_get_task_push_notification_config(params, context)
        return found

    @validate_request_params
    async def on_cancel_task(self, params: pb.CancelTaskRequest, context: ServerCallContext) -> pb.Task:
        """End a run: the graph at work, wherever it runs, and the agents' tasks."""
        with translated():
            stored = await self._tasks.get(params.id, context)
            name = read_task_id(params.id)
            if stored is None or name is None:
                raise TaskNotFoundError
            if stored.task.status.state in TERMINAL_TASK_STATES:
                raise TaskNotCancelableError
            await self._turns.cancel(name.call, name.run)
            run = await self._tasks.run(params.id)
            if run is None or status_of(run)["state"] != "TASK_STATE_CANCELED":
                raise TaskNotCancelableError("the task ended before it could be canceled")
            return as_task(run, await self._tasks.routes_of(run))

    async def _read(self, sent: Json, context: ServerCallContext, wait: Wait) -> tuple[TurnRequest, Begun | None]:
        """Read the message, and find the task that it continues: whether it can be, the turn will tell."""
        message, configuration = sent["message"], sent.get("configuration", {})
        if configuration.get("historyLength", 0) < 0:
            raise InvalidParamsError("history length must be non-negative")
        if context.tenant and context.tenant != self._tenant:
            raise InvalidParamsError(f"there is no tenant {context.tenant!r} here; leave it out")
        task = message.get("taskId")
        run = await self._tasks.run(task) if task else None
        if task and run is None:
            raise TaskNotFoundError(f"task not found: {task!r}; it never began, or its call has expired")
        if run and (message.get("contextId") or run.call) != run.call:
            raise InvalidParamsError("the message's context is not that of its task; leave out contextId")
        request = read_message(
            sent,
            call=run.call if run else None,
            run=run.number if run else None,
            idempotency_key=_idempotency_key(context) if run is None and not message.get("contextId") else None,
        )
        inputs = given_inputs(request, self._flow)
        request = replace(request, flow=self._flow.flow, context=inputs, deadline=wait.deadline, timing=wait.timing)
        return request, await self._once_begun(configuration, context, request)

    async def _once_begun(
        self, configuration: Json, context: ServerCallContext, request: TurnRequest
    ) -> Begun | None:
        """Check the notification configuration that came with the message; it is kept once the turn has begun."""
        if "taskPushNotificationConfig" not in configuration:
            return None
        config = ParseDict(configuration["taskPushNotificationConfig"], pb.TaskPushNotificationConfig())
        await self._reject_unsafe_push_url(config.url)

        async def keep(turn: OpenTurn, run: int) -> None:
            mine = task_id(request.call_identify_id, run, turn.incarnation)
            await self._push_configs.set_info(mine, config, context)
            if turn.calls:
                turn.push = await turn.calls.push_of(turn.thread)

        return keep

    async def _answer(self, taken: Taken) -> Json:
        run: Run | None = _run_of(taken)
        if run and taken.before:  # since when the task may have moved on, or another turn be at work in it
            run = await self._tasks.run(run.task_id)
        if run is None:
            raise TaskNotFoundError(
                "the context belongs to a call of another flow, or to one that has ended; name another"
            )
        message = bare_message(run) if self._flow.restarts else None
        if message:
            return {"message": message}
        return {"task": task_of(run, taken.routes or await self._tasks.routes_of(run))}

    async def _answer_at_once(self, request: TurnRequest, begun: Begun | None) -> Json:
        if copied := await self._answered_now(request):
            return {"task": whole(MessageToDict(copied.task))}
        started = await self._turns.start(request, once_begun=begun)
        if isinstance(started, Taken):
            return await self._answer(started)
        return {"task": task_of(await self._run_at_start(started), started.routes)}

    async def _answered_now(self, request: TurnRequest) -> StoredTask | None:
        """Return the task that is at work on this very message, sent before; None if none is."""
        task = await self._tasks.answering(request.call_identify_id, request.key)
        found = await self._tasks.find(task) if task else None
        return found if found and found.task.status.state == pb.TASK_STATE_WORKING else None

    async def _run_at_start(self, started: Started) -> Run:
        """Return the run as it was when its turn had just begun, however far that is by now."""
        call, turn = started.request.call_identify_id, started.turn
        recorded = await self._tasks.recorded(task_id(call, started.run, turn.incarnation))
        run = recorded or Run(call, started.run, turn.incarnation, ())
        before = [step for step in run.steps if step["number"] <= turn.state.get("step_count", 0)]
        return replace(run, steps=before, opened=_opened(started, run, len(before)), summary=None)

    async def _updates(self, started: Started, run: Run) -> AsyncGenerator[Event, None]:
        teller = Teller(run, started.routes, last=run.last, settled=False)
        async with aclosing(follow_turn(self._tasks.events, started)) as followed:
            async for published in followed:
                for update in teller.hear(published):
                    yield update
        if not teller.settled:  # the events did not reach the store; the turn may have, all the same
            for update in teller.catch_up(_run_of(await started.taking)):
                yield update


def _opened(started: Started, run: Run, steps: int) -> OpenedTurn:
    """Return the open turn as the store tells it to every reader, or as it was if it is over by now.

    Args:
        started: the turn.
        run: its run, as the store tells it now.
        steps: how many of the run's steps are older than the turn.
    """
    if run.opened and run.opened.token == started.turn.token:
        return run.opened
    at = run.steps[steps]["timestamp"] if len(run.steps) > steps else now()
    return OpenedTurn(started.turn.token, True, {**started.request.said(), "at": at})


def _run_of(taken: Taken) -> Run:
    number, summary = taken.step.get("run", 1), taken.state.get("session_summary")
    return Run(
        taken.request.call_identify_id,
        number,
        taken.incarnation,
        [step for step in taken.steps if step.get("run", 1) == number],
        summary=summary if summary and summary.get("run", 1) == number else None,
    )


def _event(answer: Json) -> pb.Message | pb.Task:
    return typed(answer["task"], pb.Task) if "task" in answer else typed(answer["message"], pb.Message)


def _shortened(answer: Json, sent: Json) -> Json:
    """Return the answer with as much of its task's history as the client asks for."""
    length, task = sent.get("configuration", {}).get("historyLength"), answer.get("task")
    if length is None or not task or len(task.get("history", ())) <= length:
        return answer
    kept = {"history": task["history"][-length:]} if length else {}
    return {"task": {name: value for name, value in task.items() if name != "history"} | kept}


def _idempotency_key(context: ServerCallContext) -> str | None:
    headers: dict[str, str] = context.state.get("headers", {})
    return headers.get("idempotency-key") or None
