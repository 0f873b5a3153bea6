"""Giving one piece of work to an agent of a type: a flow of one stage, made when such work is given first.

So it has all that a stage has: attempts, the fallback, the trail, and a write that is never sent twice.
"""

import asyncio
import hashlib
import re
from collections.abc import Mapping
from typing import Any, Literal

from graph.workflows import Untranslatable, Workflow, slug, translate, written
from nodes.ports import Part
from nodes.reaching.pool import Pool
from server.flows import Flows, Version
from server.problems import BadInput, FlowNotFound
from server.workflows import known_agents

STAGE = "execute"
_SLUG = 40
_NAME = re.compile(r"agent-[a-z0-9-]*-[0-9a-f]{8}")


async def flow_for(flows: Flows, pool: Pool, agent_type: str, effect: Literal["read", "write"] | None) -> Version:
    """Return the flow that asks an agent of a type.

    Args:
        flows: the flows of the service.
        pool: the instances of agents that have registered themselves.
        agent_type: the type, or an agent's name.
        effect: whether it moves money or changes records; None for what the flows say of it. One of which they say
            nothing is taken to write.

    Raises:
        BadInput: if there is no such agent, or it is said to read but a flow says that it writes.
        StoreError: if the store failed.
    """
    name = f"agent-{slug(agent_type, _SLUG)}-{hashlib.sha256(f'{agent_type} {effect}'.encode()).hexdigest()[:8]}"
    try:
        text = await asyncio.to_thread(_written, name, flows, pool, agent_type, effect)
    except Untranslatable as error:
        raise BadInput([{"field": "agent_type", "message": message} for _, message in error.found]) from error
    try:
        known = await flows.find(name)
    except FlowNotFound:
        known = None
    return known if known is not None and known.text == text else await flows.add(text, name, fills=True)


def is_made_for_work(flow: str) -> bool:
    """Tell whether a flow that was made at run time was made for such work, by its name."""
    return bool(_NAME.fullmatch(flow))


def writes(version: Version) -> bool:
    """Tell whether a flow's agent is asked to move money or to change records."""
    return any(stage.effect == "write" for stage in version.flow.stages.values())


def parts_of(input_data: Mapping[str, Any]) -> list[Part]:
    """Return the message that an agent gets: what is called `text` as its text, all else as one data part."""
    told = dict(input_data)
    text = told.pop("text") if isinstance(told.get("text"), str) else ""
    return [*([{"text": text}] if text else []), *([{"data": told}] if told or not text else [])]


def _written(name: str, flows: Flows, pool: Pool, agent_type: str, effect: Literal["read", "write"] | None) -> str:
    agents = known_agents(flows, pool)
    step = {"name": STAGE, "agent_type": agent_type, "effect": "write" if effect == "write" else None}
    work = Workflow.model_validate({"name": "Work for an agent", "steps": [step]})
    maybe = agents.writers if effect == "read" else agents.writers | agents.undeclared
    flow = translate(work, name, agents.families, maybe)
    for stage in flow["stages"].values():
        del stage["input"]  # the message goes as it is
        if effect == "read" and stage.get("effect") == "write":
            message = f"a flow says that {agent_type!r} writes; leave it out, or send 'write'"
            raise BadInput([{"field": "effect", "message": message}])
    return written(flow)
