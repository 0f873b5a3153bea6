"""What must hold before a flow may run: each rule yields what is wrong, where, and the remedy."""

import difflib
import re
from collections.abc import Iterable, Iterator
from urllib.parse import urlsplit

from graph.flow import Flow
from graph.proofs import unproven
from nodes.spec import ANSWER, END, KNOWN, ON_ERROR, UNKNOWN

Place = tuple[str | int, ...]
Found = Iterator[tuple[Place, str]]

RESERVED = ("fallback", "classifier", END, *ON_ERROR)
"""Names of the graph's own nodes, and words of the language."""


def problems_of(flow: Flow) -> list[tuple[Place, str]]:
    """Return everything that keeps the flow from running, as (place in the document, what and remedy)."""
    found = [problem for rule in _RULES for problem in rule(flow)]
    # An agent may seem idle, or a stage out of reach, only because a name is misspelt elsewhere.
    return found or [*_unused(flow), *unproven(flow)]


def _kinds(flow: Flow) -> Found:
    for name, stage in flow.stages.items():
        if bool(stage.intents) == bool(stage.agent):
            yield ("stages", name), f"stage {name!r} needs exactly one of `intents` and `agent`"


def _names(flow: Flow) -> Found:
    for name, stage in flow.stages.items():
        if name in RESERVED:
            yield ("stages", name), f"{name!r} is a name of the graph's own; choose another"
        if UNKNOWN in stage.intents:
            yield (
                ("stages", name, "intents", UNKNOWN),
                f"{UNKNOWN!r} is legal everywhere already; name the agent that answers it under `fallback`",
            )


def _ids(flow: Flow) -> Found:
    seen: dict[int, str] = {}
    for name, number in flow.stage_ids().items():
        if number in seen:
            yield ("stages", name, "id"), f"stages {seen[number]!r} and {name!r} both have id {number}; change one"
        seen.setdefault(number, name)


def _agents(flow: Flow) -> Found:
    for place, agent in _named(flow):
        if agent not in flow.agents:
            yield place, f"agent {agent!r} is not defined; {_remedy(agent, flow.agents, 'agents')}"


def _unused(flow: Flow) -> Found:
    named = {agent for _, agent in _named(flow)}
    for agent in flow.agents:
        if agent not in named:
            yield ("agents", agent), f"no stage uses agent {agent!r}; name it in one, or remove it"


def _named(flow: Flow) -> list[tuple[Place, str]]:
    """Return every place at which the flow names an agent."""
    named: list[tuple[Place, str]] = []
    named += [(("stages", name, "agent"), stage.agent) for name, stage in flow.stages.items() if stage.agent]
    named += [
        (("stages", name, "intents", intent), agent)
        for name, stage in flow.stages.items()
        for intent, agent in stage.intents.items()
    ]
    return named + ([(("fallback",), flow.fallback)] if flow.fallback else [])


def _addresses(flow: Flow) -> Found:
    for name, agent in flow.agents.items():
        if wrong := _wrong_with(agent.url):  # the address itself may hold a password and is not shown
            yield ("agents", name, "url"), f"the address of agent {name!r} {wrong}; write it as http://host:port"


def _wrong_with(url: str) -> str | None:
    parts = urlsplit(url)
    if re.search(r"[\s\x00-\x1f\x7f]", url):
        return "holds a space or a control character"
    if parts.query or parts.fragment:
        return "holds a ? or #, but the agent's card must lie below it"
    try:
        return None if parts.port != 0 else "has the port 0"
    except ValueError:
        return "has no port from 1 to 65535"


def _triggers(flow: Flow) -> Found:
    intents = {intent for stage in flow.stages.values() for intent in stage.intents}
    for intent, phrases in flow.triggers.items():
        if intent not in intents:
            yield (
                ("triggers", intent),
                f"no stage has the intent {intent!r}; {_remedy(intent, intents, 'a stage')}",
            )
        for index, phrase in enumerate(phrases):
            if phrase != "*" and not phrase.replace("*", "").strip():
                remedy = "remove it, or write '*' for whatever no other trigger takes"
                yield ("triggers", intent, index), f"the trigger {phrase!r} would match anything; {remedy}"
            elif re.search(r"\*\S", phrase):
                yield (
                    ("triggers", intent, index),
                    f"in the trigger {phrase!r} a * does not end its word; move it there",
                )


def _waits(flow: Flow) -> Found:
    asks = [name for name, stage in flow.stages.items() if stage.intents]
    if asks and flow.waits_for != "caller":
        yield (
            ("stages", asks[0], "intents"),
            f"stage {asks[0]!r} needs the caller's intent, but the flow does not wait; add `waits_for: caller`",
        )
    if asks and not flow.fallback:
        yield (
            ("stages", asks[0], "intents"),
            "nobody answers an unknown intent; name an agent under `fallback`",
        )


def _restarts(flow: Flow) -> Found:
    if flow.restarts and flow.waits_for != "caller":
        yield (
            ("restarts",),
            "a flow that restarts begins its next run with the caller's next message; add `waits_for: caller`",
        )


def _timeouts(flow: Flow) -> Found:
    for kind, named in (("agents", flow.agents), ("stages", flow.stages)):
        for name, one in named.items():
            if one.timeout and flow.turn_timeout and one.timeout > flow.turn_timeout:
                yield (
                    (kind, name, "timeout"),
                    f"it may take longer ({one.timeout:g}s) than a turn ({flow.turn_timeout:g}s); "
                    "raise `turn_timeout`, or lower this",
                )


def _targets(flow: Flow) -> Found:
    targets: list[tuple[Place, str]] = []
    for name, stage in flow.stages.items():
        targets += [(("stages", name, "next", number, "goto"), way.goto) for number, way in enumerate(stage.next)]
        if stage.detour and stage.detour not in (*flow.stages, END):
            yield (
                ("stages", name, "on_error"),
                f"there is no stage {stage.detour!r}; write `fail`, `continue`, or a stage's name",
            )
    for place, target in targets:
        if target not in flow.stages and target != END:
            yield place, f"there is no stage {target!r}; {_remedy(target, [*flow.stages, END], 'stages')}"
    named: list[tuple[Place, str]] = [(("anywhere", intent), target) for intent, target in flow.anywhere.items()]
    for number, gate in enumerate(flow.gates):
        named += [(("gates", number, "stage"), gate.stage), (("gates", number, "after"), gate.after)]
    for place, target in named:
        if target not in flow.stages:
            yield place, f"there is no stage {target!r}; {_remedy(target, flow.stages, 'stages')}"


def _anywhere(flow: Flow) -> Found:
    if flow.anywhere and flow.waits_for != "caller":
        yield ("anywhere",), "intents need a caller; add `waits_for: caller`"
    for name, stage in flow.stages.items():
        for intent in stage.intents:
            if intent in flow.anywhere:
                yield ("stages", name, "intents", intent), f"{intent!r} is legal everywhere already; keep one of them"
    if UNKNOWN in flow.anywhere:
        yield ("anywhere", UNKNOWN), f"{UNKNOWN!r} is legal everywhere already; it goes to the `fallback`"


def _written(flow: Flow) -> Found:
    taken = {
        **dict.fromkeys((*KNOWN, ANSWER), "is always there"),
        **dict.fromkeys(flow.stages, "is a stage's answer"),
    }
    for number, name in enumerate(flow.inputs):
        if name in taken:
            yield ("inputs", number), f"{name!r} {taken[name]}; choose another name"
    for stage_name, stage in flow.stages.items():
        for field, name in stage.output.items():
            if name in taken:
                yield ("stages", stage_name, "output", field), f"{name!r} {taken[name]}; choose another name"


def _remedy(name: str | None, known: Iterable[str], where: str) -> str:
    close = difflib.get_close_matches(str(name), list(known), n=1)
    return f"did you mean {close[0]!r}?" if close else f"define it under {where}"


_RULES = (
    *(_kinds, _names, _ids, _agents, _addresses, _triggers, _waits, _restarts, _timeouts),
    *(_targets, _anywhere, _written),
)
