"""What must hold after a run, whatever happened in it. Pure: values in, violations out."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any

from graph.audit import verify
from tests.chaos.clients import Answer
from tests.chaos.ledger import Effect

Trail = Sequence[Mapping[str, Any]]

RUN = ("look", "refund", "credit", "booking")
"""The stages of `chaos_run.yaml`."""
_SAME = {
    "step": "number",
    "status": "response_status",
    "response": "response_data",
    "intent": "intent",
    "intent_flow_id": "intent_flow_id",
    "next_flow_id": "next_flow_id",
    "is_complete": "is_complete",
}
"""What an answer says, and where its step says it."""


def violations_of_trail(call: str, trail: Trail, answers: Sequence[Answer], said: Mapping[str, str]) -> list[str]:
    """Return what is wrong with a call's audit trail.

    Args:
        call: its name.
        trail: its steps.
        answers: what its client was answered, in order.
        said: what a person said came of each parked write, by id.
    """
    found = [
        *_numbers(trail),
        *_lost(trail, answers),
        *_order(answers),
        *_unexplained(trail, answers),
        *_chain(trail),
    ]
    found += _parked(trail, said)
    return [f"{call}: {one}" for one in found]


def violations_of_run(call: str, trail: Trail, said: Mapping[str, str]) -> list[str]:
    """Return what is wrong with the audit trail of a run that went by itself."""
    done = Counter(step["stage"] for step in trail if step["response_status"] == "success")
    found = [] if done == Counter(RUN) else [f"the stages were done so often: {dict(done)}"]
    return [f"{call}: {one}" for one in (*found, *_numbers(trail), *_chain(trail), *_parked(trail, said))]


def violations_of_effects(effects: Mapping[str, Sequence[Effect]], wanted: Iterable[str]) -> list[str]:
    """Return what was done twice, or not at all, of what the clients wanted."""
    twice = [f"{intended} was done {len(done)} times: {done}" for intended, done in effects.items() if len(done) > 1]
    messages = Counter(effect.message_id for done in effects.values() for effect in done)
    twice += [f"message {name} was acted on {times} times" for name, times in messages.items() if times > 1]
    return twice + [f"{intended} was answered, but never done" for intended in wanted if not effects.get(intended)]


def violations_of_receipts(answers: Iterable[Answer], effects: Mapping[str, Sequence[Effect]]) -> list[str]:
    """Return answers to writes that name another effect than the one there was."""
    found = []
    for answer in answers:
        text = str(answer.body["response"].get("text"))
        receipts = [
            f"receipt {effect.receipt}" for effect in effects.get(f"{answer.call}/{answer.body['stage']}", [])
        ]
        if answer.body["status"] == "success" and text.startswith("receipt") and text not in receipts:
            found.append(f"{answer.key}: answered {text!r}, but there was {receipts}")
    return found


def _numbers(trail: Trail) -> list[str]:
    numbers = [step["number"] for step in trail]
    return [] if numbers == list(range(1, len(trail) + 1)) else [f"the steps are numbered {numbers}"]


def _lost(trail: Trail, answers: Sequence[Answer]) -> list[str]:
    """Return the answers of which the trail has not exactly one step that says the same."""
    by_number: dict[int, list[Mapping[str, Any]]] = defaultdict(list)
    for step in trail:
        by_number[step["number"]].append(step)
    found = []
    for answer in answers:
        steps = by_number[answer.body["step"]]
        told = {key: answer.body[key] for key in _SAME}
        kept = [{key: step[name] for key, name in _SAME.items()} for step in steps]
        if kept != [told]:
            found.append(f"{answer.key} was answered {told}, but the trail has {kept}")
        elif steps[0]["input_message"] != answer.said and "resolution" not in steps[0]:
            found.append(f"{answer.key} said {answer.said!r}, but the trail {steps[0]['input_message']!r}")
    return found


def _order(answers: Sequence[Answer]) -> list[str]:
    """Return the turns that were answered before others were sent, and have later steps, or the same one."""
    twice = Counter(answer.body["step"] for answer in answers)
    found = [f"step {step} answers {times} turns" for step, times in twice.items() if times > 1]
    return found + [
        f"{one.key} has step {one.body['step']}, and {other.key}, which was sent later, {other.body['step']}"
        for one, other in combinations(sorted(answers, key=lambda answer: answer.began), 2)
        if one.ended <= other.began and one.body["step"] >= other.body["step"]
    ]


def _unexplained(trail: Trail, answers: Sequence[Answer]) -> list[str]:
    """Return the steps that are neither an answer, nor a parked write, nor what became of one."""
    answered = {answer.body["step"] for answer in answers}
    return [
        f"nobody was ever told of step {step['number']}: {dict(step)}"
        for step in trail
        if step["number"] not in answered and "parked" not in step and "resolution" not in step
    ]


def _chain(trail: Trail) -> list[str]:
    """Return where the hashes of the trail do not fit, from its first step on."""
    rest = verify(trail[1:], trail[0]["audit"]["hash"], first=2) if trail else ()
    return [f"step {fault.step} of the chain: {fault.what}" for fault in rest]


def _parked(trail: Trail, said: Mapping[str, str]) -> list[str]:
    """Return what the trail does not tell, or tells twice, of parked writes and what became of them."""
    parked = Counter(step["parked"] for step in trail if "parked" in step)
    told = [step["resolution"] for step in trail if "resolution" in step]
    resolved = Counter(resolution["parked"] for resolution in told)
    by_people = {one["parked"]: one["outcome"] for one in told if not one["by"].startswith("agent ")}
    in_truth = {name: said.get(name) for name in by_people}
    found = [f"{name} is parked {times} times" for name, times in parked.items() if times > 1]
    if parked != resolved:
        found.append(f"parked were {dict(parked)}, but settled {dict(resolved)}")
    if by_people != in_truth:
        found.append(f"people said {in_truth}, but the trail says they said {by_people}")
    return found
