"""Why a call went where it went, told from its audit trail alone: what was wanted and how that was known, who could
have been asked, who was, and what came of it. Pure.

A step says only what was written down when it was made; what an older step lacks is told as not recorded.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from nodes.jobs import ALL, MODEL, PERSON
from nodes.outcome import WAITS

_Step = Mapping[str, Any]
_Names = Mapping[tuple[Any, Any], str]
"""The stages that the trail names, by flow and number."""

_EXCLUDED = {
    "circuit_open": "it failed again and again, so its circuit is open",
    "resting": "it asked to be left alone for a while",
    "unhealthy": "it did not answer when it was probed",
    "failed_just_before": "an attempt of this turn had failed there",
    "another_version": "the call belongs to another version",
    "no_weight": "its version gets no calls",
}
_ONWARD = {
    "answered": "The stage is answered: the call goes on to {to}.",
    "completed": "With that, the run is complete.",
    "repeats": "The flow leads back to {to}.",
    "waits": "Whoever was asked waits for the caller, so the call stays at this stage.",
    "fallback": "The fallback never moves the call: it stays at {to}.",
    "stays": "The failure leads nowhere else: the call stays at {to}.",
    "on_error": "The stage's `on_error` leads on from the failure to {to}.",
    "failed": "The stage's `on_error` says that the run fails with it.",
    "canceled": "The call was canceled here.",
    "parked": "Until that is settled, the call stays at {to}, and sends no other write.",
    "settled": "With that settled, the call is at {to}.",
    "branch": "The stage goes on when all that it asks at once have answered.",
    "needs": "A stage that needs this one runs as soon as all that it needs is done with.",
    "stuck": "No stage can run now: the call stays at {to}.",
}
"""Why the next stage is what it is."""


_NOT_ASKED = ("agent_off", "no_endpoint")
"""How it failed where there was nobody to send anything to."""
_OF_AGENTS = ("agent_version", "candidates", "fallback", "instead_of")
"""What only a step has for which an agent was asked, or was to be."""


def explained(steps: Sequence[_Step]) -> list[dict[str, Any]]:
    """Return an explanation of each step of a call, as JSON-native values with the same in sentences (`story`)."""
    names = {(step.get("flow"), step["intent_flow_id"]): step["stage"] for step in steps}
    return [_explained(step, names) for step in steps]


def _explained(step: _Step, names: _Names) -> dict[str, Any]:
    return {
        "step": step["number"],
        "at": step["timestamp"],
        **_some(step, "flow", "run"),
        "stage": step["stage"],
        "intent_flow_id": step["intent_flow_id"],
        **_some(step, "branch"),
        "intent": _intent(step),
        "candidates": _candidates(step),
        "chosen": _chosen(step),
        "tried": list(step.get("tried", ())),
        "outcome": _outcome(step),
        "next": _next(step, names),
        "story": [*_story(step, names)],
    }


def _some(step: _Step, *fields: str) -> dict[str, Any]:
    return {field: step[field] for field in fields if field in step}


def _intent(step: _Step) -> dict[str, Any]:
    told = {"name": step["intent"], "source": step["intent_source"]}
    for field in ("confidence", "because"):
        if f"intent_{field}" in step:
            told[field] = step[f"intent_{field}"]
    return told | ({"not_recorded": missing} if (missing := _not_recorded(step)) else {})


def _not_recorded(step: _Step) -> str | None:
    """Return what an older step, or a model that did not say it, leaves open."""
    field = {"llm": "confidence", "triggers": "because"}.get(step["intent_source"])
    return field if field and f"intent_{field}" not in step else None


def _candidates(step: _Step) -> list[dict[str, Any]]:
    """Return the endpoints that could have been asked; where none are told, there was only the one that was."""
    if "candidates" in step:
        return [dict(candidate) for candidate in step["candidates"]]
    version = {"version": step["agent_version"]} if "agent_version" in step else {}
    return [{"url": step["a2a_agent_url"], **version}] if step["a2a_agent_url"] and _who(step) == "agent" else []


def _who(step: _Step) -> str:
    """Return who was asked: an agent, a model, a person, or several at once."""
    named = step["agent"] in (PERSON, ALL, MODEL) and not _is_of_an_agent(step)
    return str(step["agent"]) if named else "agent"


def _is_of_an_agent(step: _Step) -> bool:
    """Tell whether a step shows that an agent was asked, or was to be, whatever its name."""
    has_address = bool(step["a2a_agent_url"]) and step["agent"] != MODEL  # which has one, too
    not_asked = step["response_data"].get("error", {}).get("type") in _NOT_ASKED
    return has_address or not_asked or any(field in step for field in _OF_AGENTS)


def _chosen(step: _Step) -> dict[str, Any]:
    version = {"version": step["agent_version"]} if "agent_version" in step else {}
    url = {"url": step["a2a_agent_url"]} if step["a2a_agent_url"] else {}
    told = {"who": _who(step), "agent": step["agent"], **version, **url, "attempt": step.get("attempt", 1)}
    return told | _some(step, "fallback", "instead_of")


def _outcome(step: _Step) -> dict[str, Any]:
    response = step["response_data"]
    told = {"status": step["response_status"], "duration_ms": step["duration_ms"]}
    return told | _some(response, "task_state", "error") | _some(step, "parked", "held_by", "resolution")


def _next(step: _Step, names: _Names) -> dict[str, Any]:
    told = {"flow_id": step["next_flow_id"], "why": _why_next(step), "is_complete": step["is_complete"]}
    name = names.get((step.get("flow"), step["next_flow_id"]))
    return told | ({"stage": name} if name else {}) | _some(step, "skipped", "requests", "ended")


def _why_next(step: _Step) -> str:
    if step.get("ended") in ("failed", "canceled"):
        return str(step["ended"])
    if "branch" in step:
        return "branch"
    if "parked" in step or "held_by" in step:
        return "parked"
    if "resolution" in step:
        return "settled"
    if step.get("fallback") and not step["is_complete"]:
        return "fallback"
    return _why_moved(step)


def _why_moved(step: _Step) -> str:
    succeeded, moves = step["response_status"] == "success", step["next_flow_id"] != step["intent_flow_id"]
    if step["response_data"].get("task_state") in WAITS:
        return "waits"
    if step["is_complete"]:
        return "completed" if succeeded else "on_error"
    if "sums_up" in step or "artifacts" in step:  # of a flow with `needs`
        return "stuck" if "sums_up" in step else "needs"
    if succeeded:
        return "answered" if moves else "repeats"
    return "on_error" if moves else "stays"


def _has_others(step: _Step, names: _Names) -> bool:
    """Tell whether the trail has another stage of the step's flow, one that may need this one."""
    return len({number for flow, number in names if flow == step.get("flow")}) > 1


def _story(step: _Step, names: _Names) -> Iterator[str]:
    """Yield the explanation in sentences, in the order in which things happened."""
    if _intent_mattered(step):
        yield _intent_told(step)
    if "resolution" in step:
        yield _resolution_told(step["resolution"])
    if step.get("resolution", {}).get("outcome") != "done":  # else nobody was asked again
        yield from _tried_told(step.get("tried", ()))
        yield from _choice_told(step)
        yield _outcome_told(step)
    yield from _write_told(step)
    yield from _onward_told(step, names)


def _intent_mattered(step: _Step) -> bool:
    """Tell whether the intent is worth a word: not where none was said, and whoever answers there needs none."""
    needed = "fallback" in step and "instead_of" not in step
    return step["intent_source"] != "none" or bool(step.get("intent_because")) or needed


def _intent_told(step: _Step) -> str:
    intent, because = repr(step["intent"]), step.get("intent_because", ())
    words = ", ".join(map(repr, because)) or "which ones is not recorded"
    sure = f"confidence {step.get('intent_confidence', 'not recorded')}"
    again = f" ({words})" if because else f" ({sure})" if "intent_confidence" in step else ""
    known = "no intent that is legal here" if step["intent"] == "unknown" else f"intent {intent}"
    told = {
        "declared": f"The client said that the intent is {intent}.",
        "triggers": f"Intent {intent} was recognised by the flow's trigger words: {words}.",
        "llm": f"The model recognised {known} ({sure}).",
        "open_task": f"Agent {step['agent']!r} had asked the caller something: intent {intent} goes on.",
        "kept": f"Intent {intent} was asked for before, and waited for its turn{again}.",
        "none": f"No intent was said or recognised{''.join(f': {why}' for why in because)}.",
    }
    source = step["intent_source"]
    return told.get(source, f"Intent {intent} came from {source!r}.")


def _choice_told(step: _Step) -> Iterator[str]:
    """Yield who was asked, where, and what spoke against the others."""
    yield _asked_told(step)
    if _who(step) != "agent":
        return
    others = [one for one in _candidates(step) if not _is_chosen(step, one)]
    chosen = next((one for one in _candidates(step) if _is_chosen(step, one)), {})
    open_ = [one for one in others if "excluded" not in one]
    url, all_ = step["a2a_agent_url"], len(others) + 1
    if not url:
        yield "Nothing was sent to it."
    elif not others:
        yield f"It has one endpoint, {url}."
    elif open_:
        yield f"It was asked at {url}, one of {len(open_) + 1} endpoints that could be."
    else:
        yield f"It was asked at {url}, the only one of {all_} endpoints that could be."
    if "excluded" in chosen:
        yield f"That was in doubt ({_reason(chosen)}), but there was none better."
    for one in others:
        if "excluded" in one:
            yield f"Left out: {one['url']}{_of_version(one)}, as {_reason(one)}."


def _is_chosen(step: _Step, candidate: Mapping[str, Any]) -> bool:
    same_version = candidate.get("version") == step.get("agent_version")
    return bool(candidate["url"] == step["a2a_agent_url"] and same_version)


def _reason(candidate: Mapping[str, Any]) -> str:
    return _EXCLUDED.get(candidate["excluded"], str(candidate["excluded"]))


def _of_version(told: Mapping[str, Any], field: str = "version") -> str:
    return f", version {told[field]!r}" if field in told else ""


def _asked_told(step: _Step) -> str:
    stage = f"stage {step['stage']!r}"
    branch = f"branch {step['branch']!r} of {stage}" if "branch" in step else stage
    agent = f"agent {step['agent']!r}{_of_version(step, 'agent_version')}"
    if step.get("sums_up"):
        return "This step takes all stages of the run together."
    if "instead_of" in step:
        off = f"agent {step['instead_of']['agent']!r} is switched off"
        return f"At {stage} {off}: the flow's fallback is asked in its place, {agent}."
    if step.get("fallback"):
        return f"Nobody answers that at {stage}: the flow's fallback is asked, {agent}."
    told = {
        MODEL: f"At {branch} a model is asked ({step['a2a_agent_url'] or 'none is configured'}).",
        PERSON: f"At {branch} a person is asked.",
        ALL: f"At {stage} several are asked at once; this step joins what they answered.",
        "agent": f"At {branch} {agent} {'is' if step['a2a_agent_url'] else 'was to be'} asked{_in_place_of(step)}.",
    }
    return told[_who(step)]


def _in_place_of(step: _Step) -> str:
    """Tell for whom the agent stands in: the one that failed before."""
    failed = next((one["agent"] for one in step.get("tried", ()) if one["agent"] != step["agent"]), None)
    return f" in place of agent {failed!r}" if failed else ""


def _tried_told(tried: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    for one in tried:
        if one["type"] in _NOT_ASKED:
            yield _not_asked_told(one)
            continue
        where = f" at {one['url']}" if one.get("url") else ""
        took = f" after {one['duration_ms']:.0f} ms" if "duration_ms" in one else ""
        who = f"agent {one['agent']!r}{_of_version(one)}"
        yield _ended(f"Attempt {one['attempt']} with {who}{where} failed{took} ({one['type']}): {one['message']}")


def _not_asked_told(one: Mapping[str, Any]) -> str:
    if one["type"] == "agent_off":
        return f"Agent {one['agent']!r} was switched off: nothing was sent to it."
    _, _, why = one["message"].partition(" now: ")
    return _ended(f"Agent {one['agent']!r} had no endpoint that could be asked{f': {why}' if why else ''}")


def _outcome_told(step: _Step) -> str:
    took, error = f"{step['duration_ms']:.0f} ms", step["response_data"].get("error")
    attempt = f", attempt {step['attempt']}" if "attempt" in step else ""
    state = step["response_data"].get("task_state")
    if step["response_status"] == "success":
        return f"Answered in {took}{attempt}{f' (task {state})' if state else ''}."
    if not error:
        return f"Failed after {took}{attempt}."
    return _ended(f"Failed after {took}{attempt} ({error['type']}): {error['message']}")


def _ended(sentence: str) -> str:
    return sentence if sentence.endswith((".", "!", "?")) else f"{sentence}."


def _resolution_told(told: Mapping[str, Any]) -> str:
    done = "was done" if told["outcome"] == "done" else "was not done"
    return _ended(f"{told['by']} said at {told['at']} that the write {told['parked']!r} {done}: {told['why']}")


def _write_told(step: _Step) -> Iterator[str]:
    """Yield what came of a write of which nobody could know it."""
    if "parked" in step:
        yield f"Nobody knows whether the agent acted on it: parked as {step['parked']!r} until a person says."
    if "held_by" in step:
        yield f"It was not sent: the write {step['held_by']!r} has to be settled first."


def _onward_told(step: _Step, names: _Names) -> Iterator[str]:
    if step.get("skipped"):
        yield f"Passed over, as their `when` was not true: {', '.join(map(repr, step['skipped']))}."
    if step.get("requests"):
        yield f"Requests that wait: {', '.join(map(repr, step['requests']))}."
    name = names.get((step.get("flow"), step["next_flow_id"]))
    to = "its end" if step["next_flow_id"] is None else f"stage {step['next_flow_id']}"
    why = _why_next(step)
    if why == "failed" and "sums_up" in step:
        yield "The run cannot go on without what failed: it fails, too."
    elif why != "needs" or _has_others(step, names):
        yield _ONWARD[why].format(to=f"{to}, {name!r}" if name else to)
