"""What a flow means: a reference interpreter, as short as can be and with nothing of the engine in it.

It takes one turn of a call over a flow's stages as the file writes them. Expressions mean what `MEANING` says of
their text; what agents say is a function of where they are asked, how often they were, and what they get.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from zlib import crc32

Known = dict[str, Any]
Answer = dict[str, Any]
Stage = dict[str, Any]
MEANING: dict[str, Callable[[Known], Any]] = {"true": lambda known: True}
"""What each expression is worth; like CEL's, it raises where it cannot be worked out."""


class Agents:
    """What agents say: of ten answers one does not come, and one says that the task failed."""

    def __init__(self, seed: int, *, moody: bool = True) -> None:
        self._seed, self._moody = seed, moody
        self.asked: Counter[str] = Counter()

    def say(self, where: str, given: Known) -> Answer:
        """Return the answer to what an agent is asked at a stage, or at a branch of it."""
        self.asked[where] += 1
        told = sum(value for value in given.values() if isinstance(value, int)) + 7 * self.asked[where]
        mood = (crc32(f"{self._seed} {where}".encode()) + told) % (10 if self._moody else 8)
        return failure() if mood == 9 else answer({"n": mood}, failed=mood == 8)


def answer(data: Any, *, failed: bool = False) -> Answer:
    return {"status": "error" if failed else "success", "data": data}


def failure() -> Answer:
    return answer({}, failed=True)


@dataclass
class Call:
    """A call: where it is, what it knows, and its trail of (stage, branch, status)."""

    say: Callable[[str, Known], Answer]
    known: Known
    at: str
    trail: list[tuple[str, str | None, str]] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    ended: str | None = None
    taken: Counter[tuple[str, str]] = field(default_factory=Counter)
    passes: Counter[str] = field(default_factory=Counter)
    kept: defaultdict[str, dict[str, Answer]] = field(default_factory=lambda: defaultdict(dict))
    """The branches of a stage that answered while others failed."""
    done: dict[str, str] = field(default_factory=dict)
    """How each stage was done with, where `needs` makes the order."""
    sent: set[str] = field(default_factory=set)
    """The stages whose branches are at work."""
    stuck: set[str] = field(default_factory=set)
    held: bool = False
    """Whether agents are asked a super-step later, at once with the branches that are sent out in this one."""


def by_ways(flow: dict[str, Stage], call: Call) -> None:
    """Take a turn of a flow whose order comes from the file and from `next`."""
    while not call.ended:
        name = call.at
        told = _at_once(_asked(flow[name], call, name))
        goes, status = _after(flow[name], call, name, told, partial(_goes, flow, call, name))
        call.trail.append((name, None, status))
        call.ended = "completed" if goes == "end" else None
        if goes is None:
            call.ended = "failed" if _failed(told) and flow[name].get("on_error") == "fail" else None
            return
        call.at = name if goes in ("again", "end") else goes


def _goes(flow: dict[str, Stage], call: Call, name: str, known: Known) -> str | None:
    """Return where the run goes from a stage, past what is to be skipped; None if it stays there."""
    stage, on_error = flow[name], flow[name].get("on_error")
    if _failed(known["answer"]) and on_error != "continue":
        detours = [{"goto": on_error}] if isinstance(on_error, str) else on_error or []
        goes = _open(call, name, [way for way in detours if way["goto"] != "fail"], known)
    elif not _failed(known["answer"]) and _again(stage, call, name, known):
        return "again"
    else:
        goes = _open(call, name, stage.get("next", []), known) or _following(flow, name)
    way, skipped = (name, str(goes)), []
    while goes not in (None, "end") and not MEANING[flow[goes].get("when", "true")](known):
        if goes in skipped:
            raise ValueError("round and round")
        skipped.append(goes)
        always = [way["goto"] for way in flow[goes].get("next", []) if not way.keys() & {"when", "at_most"}]
        goes = always[0] if always else _following(flow, goes)
    call.skipped += skipped
    call.taken[way] += 1
    return goes


def _open(call: Call, name: str, ways: list[dict[str, Any]], known: Known) -> str | None:
    for way in ways:
        if call.taken[name, way["goto"]] < way.get("at_most", 1000) and MEANING[way.get("when", "true")](known):
            return str(way["goto"])
    return None


def _following(flow: dict[str, Stage], name: str) -> str:
    return [*flow, "end"][list(flow).index(name) + 1]


def _again(stage: Stage, call: Call, name: str, known: Known) -> bool:
    repeat = stage.get("repeat")
    return bool(repeat and call.passes[name] + 1 < repeat["at_most"] and not MEANING[repeat["until"]](known))


def by_needs(flow: dict[str, Stage], call: Call) -> None:
    """Take a turn of a flow whose order comes from `needs`: what is ready runs at once, super-step by super-step."""
    ends = [name for name in flow if not any(name in stage.get("needs", []) for stage in flow.values())]
    at_work: dict[str, Generator[None, None, str | None]] = {}
    begun: set[str] = set()
    while ready := [name for name in flow if name in at_work or (name not in begun and _ready(flow, call, name))]:
        at_work = {name: at_work.get(name) or _visited(flow[name], call, name) for name in ready}
        begun |= {*ready}
        wide = {name for name in flow if _ready(flow, call, name) and "agent" not in flow[name]} - call.stuck
        call.held = bool(wide) and not wide & call.sent
        over: dict[str, str | None] = {}
        for name, visit in at_work.items():
            over |= _step(name, visit)
        at_work = {name: visit for name, visit in at_work.items() if name not in over}
        call.done |= {name: how for name, how in over.items() if how}
        call.stuck |= {name for name, how in over.items() if not how}
        if len(ends) == 1 and over.get(ends[0]) in {"answered", "failed"}:
            call.ended = "completed"
            return
    left, fatal = [name for name in flow if name not in call.done], "fatal" in call.done.values()
    call.ended = "failed" if fatal else None if left else "completed"
    call.trail.append((left[0] if left else [*flow][-1], None, "error" if left or fatal else "success"))


def _ready(flow: dict[str, Stage], call: Call, name: str) -> bool:
    needed = all(need in call.done for need in flow[name].get("needs", []))
    return name not in call.done and needed and "fatal" not in call.done.values()


def _visited(stage: Stage, call: Call, name: str) -> Generator[None, None, str | None]:
    """Visit a stage, over a super-step or more; return how it is done with, or None if the run stays there."""
    try:
        skips = not MEANING[stage.get("when", "true")](call.known) and not call.passes[name]
        told: Answer | None = None
    except (TypeError, ValueError, LookupError, ArithmeticError):
        skips, told = False, failure()
    if skips:
        call.skipped.append(name)
        return "skipped"
    while True:
        while "agent" in stage and told is None and call.held:
            yield
            if "fatal" in call.done.values():
                return None
        told = told or (yield from _asked(stage, call, name))
        if "fatal" in call.done.values():
            return None
        goes, status = _after(stage, call, name, told, partial(_goes_on, stage, call, name))
        call.trail.append((name, None, status))
        if goes != "again":
            break
        call.stuck.discard(name)
        told = yield
        if "fatal" in call.done.values():
            return None
    fatal = _failed(told) and stage.get("on_error") == "fail"
    return ("failed" if _failed(told) else "answered") if goes else "fatal" if fatal else None


def _goes_on(stage: Stage, call: Call, name: str, known: Known) -> str | None:
    if _failed(known["answer"]):
        return "on" if stage.get("on_error") == "continue" else None
    return "again" if _again(stage, call, name, known) else "on"


def _asked(stage: Stage, call: Call, name: str) -> Generator[None, None, Answer]:
    """Ask whoever answers at a stage, and return the answer; several at once take a super-step of their own."""
    if "agent" in stage:
        return _one(call, name, call.known, stage)
    branches = [*stage.get("parallel", {})]
    if "map" in stage:
        try:
            items = list(MEANING[stage["map"]["over"]](call.known))
        except TypeError:
            return failure()
        branches = [str(number) for number in range(len(items))]
    answers = call.kept.pop(name, {})
    if missing := [branch for branch in branches if branch not in answers]:
        call.sent.add(name)
        yield
        known = dict(call.known)  # what one writes the others do not read
        for branch in missing:
            item = {"item": items[int(branch)], "index": int(branch)} if "map" in stage else {}
            one = stage["parallel"][branch] if "parallel" in stage else {"input": stage.get("input", {})}
            answers[branch] = _one(call, f"{name}/{branch}", known | item, one, keeps=True)
            call.trail.append((name, branch, answers[branch]["status"]))
        yield
        call.sent.discard(name)
    call.kept[name] = {branch: told for branch, told in answers.items() if not _failed(told)}
    failed = [branch for branch in branches if _failed(answers[branch])]
    if "parallel" in stage:
        return answer({branch: answers[branch] for branch in branches}, failed=bool(failed))
    results = [None if branch in failed else answers[branch]["data"] for branch in branches]
    return answer({"results": results, "failed": [int(branch) for branch in failed]}, failed=bool(failed))


def _one(call: Call, where: str, known: Known, stage: Stage, *, keeps: bool = False) -> Answer:
    """Ask one agent; what cannot be worked out is a failure."""
    try:
        told = call.say(where, {name: MEANING[text](known) for name, text in stage.get("input", {}).items()})
        if keeps and not _failed(told):
            call.known |= {kept: told["data"][wanted] for wanted, kept in stage.get("output", {}).items()}
    except (TypeError, ValueError, LookupError, ArithmeticError):
        return failure()
    return told


def _after(
    stage: Stage, call: Call, name: str, told: Answer, goes_on: Callable[[Known], str | None]
) -> tuple[str | None, str]:
    """Keep what is to be kept of an answer; return where the run goes, and how the step ended."""
    wanted = {key: kept for key, kept in stage.get("output", {}).items() if key in told["data"] or not _failed(told)}
    try:
        known = call.known | {kept: told["data"][key] for key, kept in wanted.items()} | {name: told}
        goes, status = goes_on(known | {"answer": told}), told["status"]
        call.known = known if goes or not _failed(told) else call.known
    except (TypeError, ValueError, LookupError, ArithmeticError):
        goes, status = None, "error"  # the flow needs mending: nothing of the answer is kept
    if goes or not _failed(told):
        call.kept.pop(name, None)
    if goes:
        call.passes[name] = call.passes[name] + 1 if goes == "again" else 0
    return goes, status


def _failed(told: Answer) -> bool:
    return bool(told["status"] == "error")


def _step(name: str, visit: Generator[None, None, str | None]) -> dict[str, str | None]:
    """Go on with a visit for one super-step; return how it ended, if it did."""
    try:
        next(visit)
    except StopIteration as stopped:
        return {name: stopped.value}
    return {}


def _at_once(asking: Generator[None, None, Answer]) -> Answer:
    """Go through all super-steps of asking."""
    while True:
        try:
            next(asking)
        except StopIteration as stopped:
            return stopped.value  # type: ignore[no-any-return]
