"""One message to an agent, sent as the orchestrator sends it, and what came back."""

import asyncio
from dataclasses import dataclass
from itertools import count
from typing import Any

from nodes.ports import AgentRequest, Part, Reply
from nodes.remote import Caller

_ids = count(1)


@dataclass(frozen=True)
class Told:
    """What an agent answered."""

    state: str | None
    text: str
    data: Any
    """Of its one data part; None if it sent none."""


def ask(url: str, text: str = "", data: Any = None, *, label: str = "", context: str = "", task: str = "") -> Told:
    """Send text and a data part; `label` is the stage it comes from, `task` asks a worker for one."""
    return asyncio.run(_ask(url, text, {"task_type": task, **(data or {})} if task else data, label, context))


async def _ask(url: str, text: str, data: Any, label: str, context: str) -> Told:
    parts: list[Part] = [{"text": text}] if text or data is None else []
    number = next(_ids)
    async with Caller() as caller:
        reply: Reply = await caller.call(
            AgentRequest(
                agent="asked",
                url=url,
                text=text,
                message_id=f"asked-{number}",
                context_id=context or f"asking-{number}",
                task_id=None,
                timeout=10,
                metadata={"flow_label": label} if label else {},
                parts=(*parts, *([{"data": data}] if data is not None else [])),
            )
        )
    return Told(reply.task_state, reply.text, next(iter(reply.data), None))
