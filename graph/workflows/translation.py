"""A workflow document becomes a flow: every step a stage with one agent, ordered by `needs`. Pure.

agent_type   an agent of that type, or of that name      input_mapping   input, and the step's name as `task_type`
depends_on   needs, and what follows from the names      output_mapping  output
condition    when, in CEL                                retry           the agent's attempts
"""

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence, Set
from itertools import chain, islice
from typing import Any

import yaml

from graph.workflows.agents import Family, NoSuchAgent, Staff, marks_of
from graph.workflows.conditions import quoted
from graph.workflows.document import Workflow, WorkflowStep
from graph.workflows.order import Circle, Order, Work, order_of
from graph.workflows.vocabulary import Place, Vocabulary

TURN_TIMEOUT = 3600
"""How long an execution may take, seconds."""

MOST_FOUND = 20
"""How many problems are told at once: a long document may have very many."""

Found = Iterator[tuple[Place, str]]

_FIELD = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")


class Untranslatable(ValueError):
    """A workflow that cannot be run.

    Attributes:
        found: everything wrong with it: the place in the document, and what to do.
    """

    def __init__(self, found: Sequence[tuple[Place, str]]) -> None:
        super().__init__("; ".join(message for _, message in found))
        self.found = list(found)


def translate(
    workflow: Workflow,
    flow: str,
    families: Sequence[Family],
    writers: Set[str] = frozenset(),
    surely: Set[str] = frozenset(),
) -> dict[str, Any]:
    """Return the flow that a workflow is, as its YAML file would say it; only agents bring `${…}` to be filled in.

    Args:
        workflow: the document.
        flow: the flow's name.
        families: the agents that there are, those that count most first.
        writers: what tells those that write in other flows: they do in this one, unless a step says otherwise.
        surely: what tells those of whom no step may say so.

    Raises:
        Untranslatable: with everything found wrong.
    """
    words, staff = Vocabulary(workflow), Staff(families)
    wrong = chain(words.found, _wrong_fields(workflow), _unknown_steps(workflow), _unknown_agents(workflow, staff))
    found = list(islice(wrong, MOST_FOUND))
    if found := found or list(islice(_relaxed(workflow, staff, surely), MOST_FOUND)):
        raise Untranslatable(found)
    order = _order(workflow, words)
    stages = {words.stages[step.name]: _stage(step, words, order, staff, writers) for step in workflow.steps}
    about = f"{workflow.name}: {workflow.description}" if workflow.description else workflow.name
    return {
        "flow": flow,
        "version": workflow.version,
        "about": _as_it_is(about),
        "turn_timeout": TURN_TIMEOUT,
        "agents": staff.hired,
        "inputs": [words.variables[name] for name in order.inputs],
        "stages": _as_it_is(stages),
    }


def written(flow: Mapping[str, Any]) -> str:
    """Return a flow as the text of a file; in ASCII, as PyYAML writes some line ends of Unicode so that it reads
    others."""
    return yaml.safe_dump(flow, sort_keys=False, width=1000)


def _stage(step: WorkflowStep, words: Vocabulary, order: Order, staff: Staff, writers: Set[str]) -> dict[str, Any]:
    agent = staff.hire(step.agent_type, step.attempts)
    effect = step.effect or ("write" if marks_of(staff.hired[agent]) & writers else "read")
    stage: dict[str, Any] = {
        "about": step.description,
        "agent": agent,
        "effect": effect if effect == "write" else None,
        "needs": [words.stages[needed] for needed in order.needs[step.name]],
        "when": words.condition_of(step),
        "input": {
            "task_type": quoted(step.name),
            **{field: words.value_of(name) for field, name in step.input_mapping.items()},
        },
        "output": {field: words.variables[name] for field, name in step.output_mapping.items()},
        "on_error": step.on_error,
        "timeout": step.timeout,
    }
    return {key: value for key, value in stage.items() if key == "needs" or value}


def _order(workflow: Workflow, words: Vocabulary) -> Order:
    works = {step.name: Work(step.depends_on, words.reads_of(step), words.writes_of(step)) for step in workflow.steps}
    try:
        return order_of(works)
    except Circle as circle:
        number = list(works).index(circle.steps[-2])
        message = f"the steps wait for each other: {circle}; remove one of the dependencies"
        raise Untranslatable([(("steps", number, "depends_on"), message)]) from circle


def _unknown_steps(workflow: Workflow) -> Found:
    names = [step.name for step in workflow.steps]
    known = set(names)
    for number, step in enumerate(workflow.steps):
        for index, needed in enumerate(step.depends_on):
            if needed not in known:
                close = difflib.get_close_matches(needed, names, n=1)
                remedy = f"did you mean {close[0]!r}?" if close else "add it, or depend on another"
                yield ("steps", number, "depends_on", index), f"there is no step {needed!r}; {remedy}"


def _unknown_agents(workflow: Workflow, staff: Staff) -> Found:
    for number, step in enumerate(workflow.steps):
        try:
            staff.hire(step.agent_type, step.attempts)
        except NoSuchAgent as error:
            yield ("steps", number, "agent_type"), str(error)


def _relaxed(workflow: Workflow, staff: Staff, surely: Set[str]) -> Found:
    """Yield the steps that say of an agent that it only reads, though a flow says that it writes."""
    for number, step in enumerate(workflow.steps):
        if step.effect == "read" and marks_of(staff.hired[staff.hire(step.agent_type, step.attempts)]) & surely:
            message = f"a flow says that {step.agent_type!r} writes; leave it out, or let who administers"
            yield ("steps", number, "effect"), f"{message} the service make the workflow"


def _wrong_fields(workflow: Workflow) -> Found:
    remedy = "an agent's fields have letters, digits, - and _, begin with a letter, and are at most 64 long"
    for number, step in enumerate(workflow.steps):
        for where, mapping in (("input_mapping", step.input_mapping), ("output_mapping", step.output_mapping)):
            for field in mapping:
                if not _FIELD.fullmatch(field):
                    yield ("steps", number, where), f"{field!r} cannot be a field; {remedy}"


def _as_it_is(value: Any) -> Any:
    """Return a value whose `${…}` nobody fills in: what a client sends must not read the service's environment."""
    if isinstance(value, dict):
        return {key: _as_it_is(child) for key, child in value.items()}
    if isinstance(value, list):
        return [_as_it_is(child) for child in value]
    return value.replace("${", "$${") if isinstance(value, str) else value
