"""Every name in a workflow document, and what it is in the flow: a stage, or something that the run knows."""

from collections.abc import Iterable, Set

from graph.workflows.conditions import NoCondition, Node, names_read, parse, quoted, to_cel
from graph.workflows.document import Workflow, WorkflowStep
from graph.workflows.names import NoName, is_variable, stage_name, variable_name

Place = tuple[str | int, ...]


class Vocabulary:
    """The names of a workflow.

    Attributes:
        found: what is wrong with them: the place in the document, and what to do.
        stages: the stage of each step, by the step's name.
        variables: what each name that is read or kept is called in the flow.
    """

    def __init__(self, workflow: Workflow) -> None:
        self.found: list[tuple[Place, str]] = []
        self.stages: dict[str, str] = {}
        self.variables: dict[str, str] = {}
        self._conditions: dict[str, Node] = {}
        for number, step in enumerate(workflow.steps):
            self._meet(step, ("steps", number))
        self._taken = set(self.stages.values())
        for number, step in enumerate(workflow.steps):
            self._keep(step, ("steps", number, "output_mapping"))
        for number, step in enumerate(workflow.steps):
            self._learn(step.input_mapping.values(), ("steps", number, "input_mapping"))
        for number, step in enumerate(workflow.steps):
            self._learn(self._read_by_condition(step), ("steps", number, "condition"))

    def condition_of(self, step: WorkflowStep) -> str | None:
        """Return the step's condition in CEL, if it has one."""
        node = self._conditions.get(step.name)
        return to_cel(node, self._cel) if node else None

    def value_of(self, name: str) -> str:
        """Return what an input mapping names, in CEL."""
        return self._cel(name) or quoted(name)

    def reads_of(self, step: WorkflowStep) -> Set[str]:
        """Return what the step reads; another step's answer goes by the name that `writes_of` gives it."""
        words = [*step.input_mapping.values(), *filter(self._is_known, self._read_by_condition(step))]
        return {self._source(word) for word in words}

    def writes_of(self, step: WorkflowStep) -> Set[str]:
        """Return what the step writes: what it keeps, and its answer, by a pair that is no name."""
        return {*step.output_mapping.values(), f"\n{step.name}"}

    def _meet(self, step: WorkflowStep, place: Place) -> None:
        if step.name in self.stages:
            self.found.append(((*place, "name"), f"two steps are called {step.name!r}; rename one"))
        try:
            self.stages[step.name] = stage_name(step.name)
        except NoName as error:
            self.found.append(((*place, "name"), str(error)))
        try:
            if step.only_if:
                self._conditions[step.name] = parse(step.only_if)
        except NoCondition as error:
            self.found.append(((*place, "condition"), str(error)))

    def _keep(self, step: WorkflowStep, place: Place) -> None:
        kept = list(step.output_mapping.values())
        for name in dict.fromkeys(kept):
            if kept.count(name) > 1:
                self.found.append((place, f"two fields are kept as {name!r}; keep one by another name"))
            self._add(name, place)

    def _learn(self, words: Iterable[str], place: Place) -> None:
        for word in words:
            head, dot, _ = word.partition(".")
            if word in self.variables or head in self.variables:
                continue
            if head not in self.stages:
                self._add(head, place)
            elif not dot:
                remedy = f"name a field of its answer, {head}.FIELD, or put text in quotes"
                self.found.append((place, f"{head!r} is a step; {remedy}"))
            elif not is_variable(self.stages[head]):
                remedy = "keep what you need of its answer with output_mapping, or rename it to letters, digits and _"
                self.found.append((place, f"the answer of step {head!r} cannot be read by its name; {remedy}"))

    def _add(self, name: str, place: Place) -> None:
        try:
            self.variables[name] = variable_name(name, self._taken)
        except NoName as error:
            self.found.append((place, str(error)))

    def _read_by_condition(self, step: WorkflowStep) -> list[str]:
        node = self._conditions.get(step.name)
        return list(names_read(node, self._is_known)) if node else []

    def _is_known(self, word: str) -> bool:
        head, dot, _ = word.partition(".")
        return word in self.variables or head in self.variables or bool(dot and head in self.stages)

    def _source(self, word: str) -> str:
        head = word.partition(".")[0]
        return word if word in self.variables else head if head in self.variables else f"\n{head}"

    def _cel(self, word: str) -> str | None:
        """Return what a word reads, in CEL; None if it is text."""
        if word in self.variables:
            return self.variables[word]
        head, *fields = word.split(".")
        if head in self.variables:
            return self.variables[head] + _path(fields)
        return f"{self.stages[head]}.data{_path(fields)}" if fields and head in self.stages else None


def _path(fields: Iterable[str]) -> str:
    """Return the way to a field, in CEL: `.customer`, `[0]`, or `["first name"]`."""
    return "".join(
        f".{one}" if is_variable(one) else f"[{one}]" if one.isascii() and one.isdigit() else f"[{quoted(one)}]"
        for one in fields
    )
