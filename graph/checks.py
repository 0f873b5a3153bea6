"""What must hold before a flow may run: each rule yields what is wrong, where, and the remedy."""

import difflib
import re
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import Any

from graph.addresses import addresses, endpoints_told
from graph.flow import Flow
from graph.needs import needs_alone, needs_known, written_at_once
from graph.proofs import llms_of, outputs_of, unproven
from nodes.schemas import wrong_with
from nodes.spec import (
    ANSWER,
    BEGIN,
    END,
    FALLBACK,
    FINISH,
    INDEX,
    ITEM,
    KINDS,
    KNOWN,
    ON_ERROR,
    UNKNOWN,
    Branch,
    Map,
    Stage,
)

Place = tuple[str | int, ...]
Found = Iterator[tuple[Place, str]]

_MOST = 100
"""How many problems are looked for: each remedy compares a name with all others."""
RESERVED = (FALLBACK, "classifier", BEGIN, FINISH, END, *ON_ERROR)
"""Names of the graph's own nodes, and words of the language."""


def problems_of(flow: Flow) -> list[tuple[Place, str]]:
    """Return everything that keeps the flow from running, as (place in the document, what and remedy)."""
    found = list(islice(chain.from_iterable(rule(flow) for rule in _RULES), _MOST))
    # An agent may seem idle, or a stage out of reach, only because a name is misspelt elsewhere.
    return found or list(islice(chain(_unused(flow), _unanswered(flow), unproven(flow)), _MOST))


def _kinds(flow: Flow) -> Found:
    for name, stage in flow.stages.items():
        if len(stage.kinds) != 1:
            kinds = f"{', '.join(f'`{kind}`' for kind in KINDS[:-1])} and `{KINDS[-1]}`"
            yield ("stages", name), f"stage {name!r} needs exactly one of {kinds}; it has {_listed(stage.kinds)}"
        asked: list[tuple[tuple[str, ...], Branch | Map]]
        asked = [(("parallel", branch), one) for branch, one in stage.parallel.items()]
        for place, one in [*asked, *([(("map",), stage.map)] if stage.map else [])]:
            if bool(one.agent) == bool(one.llm):
                yield ("stages", name, *place), f"{'.'.join(place)!r} needs exactly one of `agent` and `llm`"


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
    for name, stage in flow.stages.items():
        named += [(("stages", name, "intents", intent), agent) for intent, agent in stage.intents.items()]
        named += [
            (("stages", name, "parallel", branch, "agent"), one.agent)
            for branch, one in stage.parallel.items()
            if one.agent
        ]
        named += [(("stages", name, "map", "agent"), stage.map.agent)] if stage.map and stage.map.agent else []
    named += [(("agents", name, "fallback"), agent.fallback) for name, agent in flow.agents.items() if agent.fallback]
    return named + ([(("fallback",), flow.fallback)] if flow.fallback else [])


def _fallbacks(flow: Flow) -> Found:
    for name in flow.agents:
        seen: list[str] = [name]
        while (after := flow.agents[seen[-1]].fallback if seen[-1] in flow.agents else None) is not None:
            if after in seen:
                told = " → ".join([*seen, after])
                yield ("agents", name, "fallback"), f"the fallbacks go in a circle: {told}; let one have none"
                break
            seen.append(after)


def _triggers(flow: Flow) -> Found:
    intents = {intent for stage in flow.stages.values() for intent in stage.intents} | set(flow.anywhere)
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


def _while_busy(flow: Flow) -> Found:
    if flow.while_busy == "replace" and flow.waits_for != "caller":
        yield (
            ("while_busy",),
            "only a caller's message can take another's place; add `waits_for: caller`, or write `wait` or `reject`",
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
        if isinstance(stage.on_error, list):
            places = [("stages", name, "on_error", number, "goto") for number in range(len(stage.on_error))]
            targets += zip(places, [way.goto for way in stage.on_error], strict=True)
        elif stage.on_error not in (None, *ON_ERROR, *flow.stages, END):
            yield (
                ("stages", name, "on_error"),
                f"there is no stage {stage.on_error!r}; write `fail`, `continue`, or a stage's name",
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
            if flow.anywhere.get(intent, name) != name:
                yield ("stages", name, "intents", intent), f"{intent!r} is legal everywhere already; keep one of them"
    if UNKNOWN in flow.anywhere:
        yield ("anywhere", UNKNOWN), f"{UNKNOWN!r} is legal everywhere already; it goes to the `fallback`"


def _unanswered(flow: Flow) -> Found:
    for intent, target in flow.anywhere.items():
        stage = flow.stages[target]
        if stage.intents and intent not in stage.intents:
            yield (
                ("anywhere", intent),
                f"stage {target!r} does not say who answers {intent!r}; add it to the intents there",
            )


def _written(flow: Flow) -> Found:
    taken = {
        **dict.fromkeys((*KNOWN, ANSWER, ITEM, INDEX), "is always there"),
        **dict.fromkeys(flow.stages, "is a stage's answer"),
    }
    for number, name in enumerate(flow.inputs):
        if name in taken:
            yield ("inputs", number), f"{name!r} {taken[name]}; choose another name"
    for stage_name, stage in flow.stages.items():
        for place, name in outputs_of(stage):
            if name in taken and name != stage_name:  # its own name then means what it keeps, not its answer
                yield ("stages", stage_name, *place), f"{name!r} {taken[name]}; choose another name"


def _several(flow: Flow) -> Found:
    for name, stage in flow.stages.items():
        if stage.several and not stage.intents:
            yield ("stages", name, "several"), "several requests are several intents; add `intents`, or remove this"
        if stage.several and stage.effect == "write":
            yield (
                ("stages", name, "several"),
                "a request that waits is taken up by whatever the caller says next, so it must not write; "
                "let one stage understand the requests, and another do them",
            )
    if flow.restarts and flow.inputs:
        yield ("inputs",), "a flow that restarts begins its runs with a message alone; remove `inputs` or `restarts`"


def _schemas(flow: Flow) -> Found:
    for name, stage in flow.stages.items():
        for place, schema in _schemas_of(stage):
            if wrong := wrong_with(schema):
                yield ("stages", name, *place, "schema"), f"the schema is no JSON Schema: {wrong}; correct it"


def _schemas_of(stage: Stage) -> Iterator[tuple[Place, dict[str, Any]]]:
    if stage.ask:
        yield ("ask",), stage.ask.schema_
    for place, llm in llms_of(stage):
        if llm.schema_ is not None:
            yield place, llm.schema_


def _listed(names: list[str]) -> str:
    return " and ".join(f"`{name}`" for name in names) or "none"


def _remedy(name: str | None, known: Iterable[str], where: str) -> str:
    close = difflib.get_close_matches(str(name), list(known), n=1)
    return f"did you mean {close[0]!r}?" if close else f"define it under {where}"


_RULES = (
    *(_kinds, _names, _ids, _agents, endpoints_told, addresses, _triggers, _waits, _restarts, _while_busy, _timeouts),
    *(_targets, _anywhere, _written, _fallbacks, _several, _schemas),
    *(needs_known, needs_alone, written_at_once),
)
