"""The agents that the steps of a workflow ask for, by type or by name."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

AgentDocument = Mapping[str, Any]
"""An agent as a flow's file says it."""
Family = Mapping[str, AgentDocument]
"""The agents of one flow, by name."""

DEFAULT_AGENTS: Family = {
    "text_processor": {
        "url": "${TEXT_PROCESSOR_AGENT_URL:-http://text-processor-agent:8015}",
        "type": "text_processor",
        "attempts": 3,
    },
    "data_analyzer": {
        "url": "${DATA_ANALYZER_AGENT_URL:-http://data-analyzer-agent:8016}",
        "type": "data_analyzer",
        "attempts": 3,
    },
}
"""The agents that workflows may ask for although no flow has them."""


def writers_in(flow: Mapping[str, Any]) -> set[str]:
    """Return what tells the agents that a flow's file asks to write (`marks_of`)."""
    writing = [stage for stage in flow.get("stages", {}).values() if stage.get("effect") == "write"]
    names: set[str] = set()
    for stage in writing:
        names |= {*stage.get("intents", {}).values(), stage.get("agent"), stage.get("map", {}).get("agent")}
        names |= {branch.get("agent") for branch in stage.get("parallel", {}).values()}
    return {mark for name, agent in flow.get("agents", {}).items() if name in names for mark in marks_of(agent)}


def marks_of(agent: AgentDocument) -> set[str]:
    """Return what tells that two files mean the same agent: its addresses, as they say them, or else its type."""
    places = [agent, *agent.get("versions", {}).values()]
    urls = {url for place in places for url in (place.get("url"), *place.get("endpoints", ())) if url}
    return urls or {f"type {agent.get('type')}"}


class NoSuchAgent(LookupError):
    """Nobody is of that type, nor has that name."""


class Staff:
    """The agents of one workflow, taken from those that flows have.

    Args:
        families: where agents are looked for, those that count most first.

    Attributes:
        hired: the agents that are used, by name.
    """

    def __init__(self, families: Sequence[Family]) -> None:
        self._families = families
        self.hired: dict[str, dict[str, Any]] = {}

    def hire(self, wanted: str, attempts: int | None = None) -> str:
        """Return the name of the agent that is used for a type, or a name, asked so often.

        Raises:
            NoSuchAgent: if there is none.
        """
        for family in self._families:
            for name, agent in family.items():
                if agent.get("type") == wanted:
                    return self._hired(name, family, attempts)
        for family in self._families:
            if wanted in family:
                return self._hired(wanted, family, attempts)
        raise NoSuchAgent(_nobody(wanted, self._families))

    def _hired(self, name: str, family: Family, attempts: int | None = None) -> str:
        agent = {**family[name], **({"attempts": attempts} if attempts else {})}
        called, agent = self._called(name, agent)
        if called not in self.hired:
            self.hired[called] = agent
            if agent.get("fallback") in family:
                self.hired[called] = {**agent, "fallback": self._hired(agent["fallback"], family)}
        return called

    def _called(self, name: str, agent: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """Return the agent, and a name that no other has: one may be asked more often in one step than in another.

        By its type it is still the agent that it was: whoever switches that off means this one too.
        """
        number, called = 1, name
        while called in self.hired and not _same(self.hired[called], agent):
            number += 1
            called, agent = f"{name[:60]}-{number}", {"type": name, **agent}
        return called, agent


def _same(one: AgentDocument, other: AgentDocument) -> bool:
    return {**one, "fallback": None} == {**other, "fallback": None}


def _nobody(wanted: str, families: Sequence[Family]) -> str:
    types = dict.fromkeys(agent["type"] for family in families for agent in family.values() if agent.get("type"))
    names = dict.fromkeys(name for family in families for name in family)
    known = list(types | names)
    close = difflib.get_close_matches(wanted, known, n=1)
    remedy = f"did you mean {close[0]!r}? " if close else ""
    return f"no agent is of type {wanted!r} or has that name; {remedy}known: {', '.join(known)}"
