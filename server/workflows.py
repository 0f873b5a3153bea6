"""The workflow service: documents are translated into flows, which every replica serves from then on.

A workflow is kept as the text of its flow, with the document it was made from in a comment above: one thing in the
store, so that there is never a workflow without its flow.
"""

import asyncio
import json
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from graph.document import LARGEST, TOO_LARGE, read_document
from graph.loader import FlowError, Problem
from graph.store.versions import Versions
from graph.workflows import (
    DEFAULT_AGENTS,
    Family,
    Untranslatable,
    Workflow,
    marks_of,
    slug,
    translate,
    writers_in,
    written,
)
from nodes.outcome import now
from nodes.reaching.pool import Pool
from server.flows import Flows, Version
from server.problems import BadInput, FlowNotFound, WorkflowNotFound

_ID = re.compile(r"wf-[a-z][a-z0-9-]*-[0-9a-f]{8}")
_SLUG = 40
_ABOVE = "# Made from a workflow document: "


@dataclass(frozen=True, slots=True)
class KeptWorkflow:
    """A workflow that was made."""

    id: str
    """Also the name of its flow."""
    digest: str
    created_at: str
    document: Mapping[str, Any]
    """As its author wrote it."""

    def told(self) -> dict[str, Any]:
        """Return it as clients see it."""
        about = {key: value for key, value in self.document.items() if key != "steps"}
        return {
            "workflow_id": self.id,
            "description": "",
            "version": 1,
            **about,
            "digest": self.digest,
            "created_at": self.created_at,
            "steps": self.document["steps"],
        }


def is_workflow(flow: str | None) -> bool:
    """Tell whether a flow was made from a workflow document, by its name."""
    return bool(flow and _ID.fullmatch(flow))


class Workflows:
    """Workflows, as the doors need them.

    Args:
        flows: the flows of the service.
        pool: the instances of agents that have registered themselves.
        versions: where flows made at run time are kept.
        tenant: whose workflows these are.
    """

    def __init__(self, flows: Flows, pool: Pool, versions: Versions, tenant: str) -> None:
        self._flows = flows
        self._pool = pool
        self._versions = versions
        self._tenant = tenant

    async def make(self, workflow: Workflow, *, may_relax: bool) -> KeptWorkflow:
        """Make a workflow that new executions can begin on.

        Args:
            workflow: the document.
            may_relax: whether a step may say of an agent that it only reads, though a flow says that it writes.

        Raises:
            BadInput: with everything wrong with it.
            StoreError: if the store failed.
        """
        name = f"wf-{slug(workflow.name, _SLUG)}-{secrets.token_hex(4)}"
        created_at, sent = now(), workflow.model_dump(mode="json", exclude_unset=True)
        try:
            made_from = {"created_at": created_at, "document": sent}
            # A long document takes seconds, in which nobody else is to wait.
            text = await asyncio.to_thread(self._translated, workflow, name, made_from, may_relax)
            # What the client wrote cannot name a variable: `translate` has made `${` of it `$${`.
            version = await self._flows.add(text, f"workflow {workflow.name!r}", fills=True)
        except Untranslatable as error:
            raise BadInput([_field_error(place, message) for place, message in error.found]) from error
        except FlowError as error:
            raise BadInput([_field_error(("steps",), problem.message) for problem in error.problems]) from error
        return KeptWorkflow(name, version.flow.digest, created_at, sent)

    def _translated(self, workflow: Workflow, name: str, made_from: Mapping[str, Any], may_relax: bool) -> str:
        # ASCII: it may hold no sign that YAML takes for a line end
        told = json.dumps(made_from).replace("\x7f", "\\u007f")
        if len(told) > LARGEST:
            raise FlowError([Problem(name, 1, TOO_LARGE)])
        agents = known_agents(self._flows, self._pool)
        surely = frozenset[str]() if may_relax else agents.writers
        flow = translate(workflow, name, agents.families, agents.writers | agents.undeclared, surely)
        return f"{_ABOVE}{told}\n{written(flow)}"

    async def find(self, workflow_id: str) -> tuple[KeptWorkflow, Version]:
        """Return a workflow and its flow.

        Raises:
            WorkflowNotFound: if there is none.
            StoreError: if the store failed.
        """
        try:
            version = await self._flows.find(workflow_id) if is_workflow(workflow_id) else None
        except FlowNotFound:
            version = None
        kept = _read(workflow_id, version.flow.digest, version.text) if version else None
        if version is None or kept is None:
            raise _not_found(workflow_id)
        return kept, version

    async def all(self) -> list[KeptWorkflow]:
        """Return every workflow, the one made last first."""
        found = []
        for name, digest in (await self._versions.made(self._tenant)).items():
            version = await self._versions.get(self._tenant, digest) if is_workflow(name) else None
            kept = _read(name, digest, version.text) if version else None
            found += [kept] if kept else []
        return sorted(found, key=lambda kept: (kept.created_at, kept.id), reverse=True)

    async def remove(self, workflow_id: str) -> None:
        """Let nobody execute a workflow any more; what is under way goes on. Raises `WorkflowNotFound`."""
        if not is_workflow(workflow_id) or not await self._flows.remove(workflow_id):
            raise _not_found(workflow_id)


@dataclass(frozen=True, slots=True)
class KnownAgents:
    """The agents that work can be given to."""

    families: Sequence[Family]
    """Those that count most first."""
    writers: frozenset[str]
    """What tells those that write."""
    undeclared: frozenset[str] = frozenset()
    """What tells those of which no flow says whether they write."""


def known_agents(flows: Flows, pool: Pool) -> KnownAgents:
    """Return the agents of the flows that are served, and those that have registered themselves."""
    texts = tuple(text for name in flows.names() if (text := flows.current(name).text))
    known = _agents_in(texts)
    registered = {one.agent_type: {"type": one.agent_type} for one in pool.news.registered}
    said = {mark for family in known.families for agent in family.values() for mark in marks_of(agent)}
    undeclared = {mark for agent in registered.values() for mark in marks_of(agent)} - said
    return KnownAgents([*known.families, registered], known.writers, frozenset(undeclared))


@lru_cache(maxsize=4)
def _agents_in(texts: Sequence[str]) -> KnownAgents:
    """Return the agents that files say; their addresses may hold what nobody is to read, so they stay as written."""
    flows = [read_document(text).value for text in texts]
    families = [DEFAULT_AGENTS, *(flow.get("agents", {}) for flow in flows)]
    return KnownAgents(families, frozenset(mark for flow in flows for mark in writers_in(flow)))


def _read(name: str, digest: str, text: str) -> KeptWorkflow | None:
    first = text.partition("\n")[0]
    if not first.startswith(_ABOVE):
        return None
    made_from = json.loads(first.removeprefix(_ABOVE))
    return KeptWorkflow(name, digest, made_from["created_at"], made_from["document"])


def _field_error(place: tuple[str | int, ...], message: str) -> dict[str, str]:
    return {"field": ".".join(map(str, place)), "message": message}


def _not_found(workflow_id: str) -> WorkflowNotFound:
    return WorkflowNotFound(f"there is no workflow {workflow_id!r}; it was never made, or was deleted")
