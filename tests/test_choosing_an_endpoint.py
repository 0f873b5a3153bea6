"""Which endpoint of an agent a message goes to, decided in memory: by circuit, rest, health, version and expected
wait, on a clock that the test turns."""

import asyncio
import tracemalloc
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import pytest

from nodes.reaching.choices import AgentOff, Choice, NoEndpoint
from nodes.reaching.circuit import FAILURES, FIRST_WAIT, LONGEST_WAIT, Circuit
from nodes.reaching.endpoint import LONGEST_REST, MISSES, Endpoint
from nodes.reaching.pace import Pace
from nodes.reaching.pool import Pool
from nodes.reaching.records import News, Off, Registered, Weights
from nodes.reaching.versions import AT_LEAST, Count, in_order, worse
from nodes.remote.errors import (
    AgentError,
    BadReply,
    Disconnected,
    HeldUp,
    HttpFailed,
    ReplyTooLarge,
    RpcFailed,
    TimedOut,
    Unreachable,
    Unsendable,
)
from nodes.spec import Agent

A, B, C = "http://a:1", "http://b:1", "http://c:1"
DESK = "desk"
ONE, THREE = Agent(url=A), Agent(endpoints=[A, B, C])
TWO_VERSIONS = Agent.model_validate({"versions": {"v1": {"url": A, "weight": 90}, "v2": {"url": B, "weight": 10}}})
WHEN = "2026-01-01T00:00:00.000Z"
CALLS = [f"call-{number}" for number in range(10_000)]


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def passes(self, seconds: float) -> None:
        self.now += seconds


class Desk:
    """A pool on such a clock, and one agent of it."""

    def __init__(self, spec: Agent = THREE) -> None:
        self.clock = Clock()
        self.pool = Pool(self.clock)
        self.spec = spec

    def choose(self, call: str = "call", **more: Any) -> Choice:
        return self.pool.choose(DESK, self.spec, call, **more)

    def url(self, call: str = "call", **more: Any) -> str:
        return self.choose(call, **more).endpoint.url

    def excluded(self, call: str = "call", **more: Any) -> dict[str, str | None]:
        return {one.url: one.excluded for one in self.choose(call, **more).candidates}

    def at(self, url: str) -> Endpoint:
        return next(one.endpoint for one in self.pool.members(DESK, self.spec) if one.endpoint.url == url)

    def answers(self, url: str, seconds: float = 0.1, *, version: str | None = None, state: Any = None) -> None:
        """Let an endpoint answer after so long."""
        with self.pool.trying(Choice(DESK, self.at(url), version, ())) as trial:
            self.clock.passes(seconds)
            trial.state = state

    def fails(self, url: str, error: BaseException, *, fair: bool = True, version: str | None = None) -> None:
        with pytest.raises(type(error)), self.pool.trying(Choice(DESK, self.at(url), version, ()), fair=fair):
            raise error

    def breaks(self, url: str) -> None:
        """Let an endpoint fail until nobody is sent there."""
        for _ in range(FAILURES):
            self.fails(url, gone())

    def unwell(self, url: str) -> None:
        """Let its card not be had."""
        for _ in range(MISSES):
            self.at(url).probed(healthy=False)

    def told(self, **news: Any) -> None:
        self.pool.told(News(**news))

    def why_nobody(self, **more: Any) -> tuple[str, float | None]:
        with pytest.raises(NoEndpoint) as nobody:
            self.choose(**more)
        assert (nobody.value.acted, nobody.value.retryable) == (False, True)
        return str(nobody.value).partition("now: ")[2], nobody.value.retry_after


def gone() -> Unreachable:
    return Unreachable(DESK, "gone")


def instance(name: str, url: str, kind: str = DESK, version: str | None = None) -> Registered:
    """One that registered itself."""
    return Registered(name, kind, url, version, (), None, WHEN, None, False, None)


def weighing(**weights: float) -> Mapping[str, Weights]:
    return {DESK: Weights(weights, "ops", "a test", WHEN)}


# The shortest wait


def test_the_endpoint_with_the_shortest_wait_is_asked() -> None:
    desk = Desk()
    for url, seconds in {C: 0.5, B: 0.5, A: 0.1}.items():
        desk.answers(url, seconds)

    with ExitStack() as flight:
        asked = []
        for _ in range(14):
            choice = desk.choose()
            flight.enter_context(desk.pool.trying(choice))
            asked.append(choice.endpoint.url)
        load = desk.pool.load()

    assert asked[:4] == [A] * 4  # four there, and one more, are as fast as one at a slow endpoint
    assert Counter(asked) == load == {A: 10, B: 2, C: 2}
    assert desk.pool.load() == {}


def test_what_others_have_in_flight_counts_too() -> None:
    desk = Desk()
    for url in (A, B, C):
        desk.answers(url, 0.1)
    desk.told(loads={A: 3, B: 2})

    assert desk.url() == C
    desk.told(loads={C: 4, B: 1})
    assert desk.url() == A


def test_an_endpoint_that_nobody_has_asked_is_taken_to_be_as_fast_as_the_fastest() -> None:
    desk = Desk()
    desk.answers(A, 0.5)
    desk.answers(B, 0.5)

    with desk.pool.trying(desk.choose()):
        assert desk.pool.load() == {C: 1} or desk.url() == C  # of equals any, and then the one that is free


def test_equals_share_what_comes() -> None:
    desk = Desk()

    assert all(number > 250 for number in Counter(desk.url() for _ in range(1_000)).values())


def test_a_slow_endpoint_is_tried_again_after_a_while() -> None:
    desk = Desk(Agent(endpoints=[A, B]))
    desk.answers(A, 0.1)
    desk.answers(B, 2)

    asked = []
    for _ in range(600):
        asked.append(desk.url())
        desk.answers(asked[-1], 0.1)  # it has recovered

    assert asked[:200] == [A] * 200
    assert asked[-100:].count(B) > 20


def test_what_is_expected_follows_a_slow_answer_at_once_and_forgets_it_by_and_by() -> None:
    clock = Clock()
    pace = Pace(clock)
    seen = [pace.expected()]

    for seconds in (0.1, 0.9, 0.1):
        pace.note(seconds, failed=False)
        seen.append(pace.expected())
    for _ in range(50):
        pace.note(0.1, failed=False)
    seen.append(pace.expected())
    clock.passes(10)
    seen.append(pace.expected())

    rounded = [None if one is None else round(one, 3) for one in seen]
    assert rounded == [None, 0.1, 0.9, 0.82, 0.104, 0.038]


def test_who_fails_fast_does_not_look_fast() -> None:
    desk = Desk()
    desk.answers(A, 0.3)
    desk.answers(B, 0.3)
    desk.answers(C, 0.3)
    desk.fails(C, gone())

    assert C not in {desk.url() for _ in range(50)}


def test_the_figures_for_people_are_of_the_last_five_minutes() -> None:
    clock = Clock()
    pace = Pace(clock)
    pace.note(9, failed=False)
    clock.passes(301)
    for seconds in range(1, 20):
        pace.note(seconds / 100, failed=False)
    pace.note(5, failed=True)

    assert pace.figures() == {"calls": 20, "errors": 1, "p50_ms": 100.0, "p95_ms": 190.0}


# The circuit


def test_a_circuit_opens_after_failures_in_a_row_and_lets_one_through_after_a_wait() -> None:
    clock = Clock()
    circuit = Circuit(clock)
    for _ in range(FAILURES - 1):
        circuit.failed()
    circuit.succeeded()  # they were not in a row
    for _ in range(FAILURES - 1):
        circuit.failed()
    before = circuit.state

    circuit.failed()
    opened = (circuit.state, circuit.lets_pass, circuit.seconds)
    clock.passes(FIRST_WAIT)
    tried = (circuit.state, circuit.lets_pass, circuit.begins(), circuit.lets_pass, circuit.begins())
    circuit.succeeded()

    assert (before, opened) == ("closed", ("open", False, FIRST_WAIT))
    assert tried == ("half_open", True, True, False, False)
    assert (circuit.state, circuit.lets_pass) == ("closed", True)


def test_a_circuit_waits_twice_as_long_each_time_that_the_one_on_trial_fails() -> None:
    clock = Clock()
    circuit = Circuit(clock)
    for _ in range(FAILURES):
        circuit.failed()

    waits = []
    for _ in range(7):
        waits.append(circuit.seconds)
        clock.passes(circuit.seconds)
        circuit.failed(on_trial=circuit.begins())
    circuit.succeeded()
    for _ in range(FAILURES):
        circuit.failed()

    assert waits == [1, 2, 4, 8, 16, LONGEST_WAIT, LONGEST_WAIT]
    assert circuit.seconds == FIRST_WAIT


def test_failures_of_those_sent_before_it_opened_do_not_prolong_the_wait() -> None:
    clock = Clock()
    circuit = Circuit(clock)
    for _ in range(32):
        circuit.failed()

    assert circuit.seconds == FIRST_WAIT


def test_an_endpoint_whose_circuit_is_open_is_left_out_until_one_on_trial_comes_back() -> None:
    desk = Desk(Agent(endpoints=[A, B]))
    desk.breaks(A)
    left_out = desk.excluded()
    desk.clock.passes(FIRST_WAIT)
    desk.answers(B, 60)  # so that A looks better

    with desk.pool.trying(desk.choose()):
        on_trial, others = desk.pool.load(), {desk.url() for _ in range(20)}

    assert left_out == {A: "circuit_open", B: None}
    assert (on_trial, others) == ({A: 1}, {B})
    assert desk.excluded() == {A: None, B: None}


def test_a_trial_that_is_cancelled_tells_nothing() -> None:
    desk = Desk(ONE)
    desk.breaks(A)
    desk.clock.passes(FIRST_WAIT)

    desk.fails(A, asyncio.CancelledError())

    assert (desk.at(A).circuit.state, desk.url()) == ("half_open", A)
    assert desk.pool.load() == {}


_BLAMED: dict[str, AgentError] = {
    "not reached": gone(),
    "gone before it answered": Disconnected(DESK, "gone"),
    "no answer in time": TimedOut(DESK, "late"),
    "HTTP 500": HttpFailed(DESK, 500),
    "too many requests": HttpFailed(DESK, 429),
    "no A2A": BadReply(DESK, "no JSON"),
}
_THERE: dict[str, AgentError] = {
    "HTTP 404": HttpFailed(DESK, 404),
    "refused": RpcFailed(DESK, -32001),
    "too long": ReplyTooLarge(DESK, 10),
    "still at work": TimedOut(DESK, "late", "task-1"),
}
_SAYS_NOTHING: dict[str, AgentError] = {
    "cannot be written": Unsendable(DESK, "half a pair"),
    "held up": HeldUp(DESK),
}


@pytest.mark.parametrize("name", _BLAMED)
def test_what_an_endpoint_is_to_blame_for_opens_its_circuit(name: str) -> None:
    desk = Desk(ONE)
    for _ in range(FAILURES):
        desk.fails(A, _BLAMED[name])

    assert desk.why_nobody() == ("1 failed again and again", FIRST_WAIT)


@pytest.mark.parametrize("name", _THERE)
def test_what_shows_that_it_is_there_closes_its_circuit(name: str) -> None:
    desk = Desk(ONE)
    desk.breaks(A)
    desk.clock.passes(FIRST_WAIT)

    desk.fails(A, _THERE[name])

    assert desk.at(A).circuit.state == "closed"


@pytest.mark.parametrize("name", _SAYS_NOTHING)
def test_what_it_has_nothing_to_do_with_tells_nothing_of_it(name: str) -> None:
    desk = Desk(ONE)
    desk.breaks(A)
    desk.clock.passes(FIRST_WAIT)

    desk.fails(A, _SAYS_NOTHING[name])

    assert (desk.at(A).circuit.state, desk.url()) == ("half_open", A)


def test_no_answer_in_hardly_any_time_is_not_the_endpoints_fault() -> None:
    desk = Desk(ONE)
    for _ in range(2 * FAILURES):
        desk.fails(A, TimedOut(DESK, "late"), fair=False)

    assert desk.at(A).circuit.state == "closed"
    assert desk.at(A).pace.expected() is None


def test_while_one_is_on_trial_the_others_are_told_to_come_again() -> None:
    desk = Desk(ONE)
    desk.breaks(A)
    desk.clock.passes(FIRST_WAIT)

    with desk.pool.trying(desk.choose()):
        assert desk.why_nobody() == ("1 failed again and again", 0)


# Rest, health, and what failed just before


def test_an_endpoint_is_left_alone_for_as_long_as_it_asks() -> None:
    desk = Desk()
    desk.fails(A, HttpFailed(DESK, 503, retry_after=20))
    during = desk.excluded()
    desk.clock.passes(19.9)
    still = desk.excluded()
    desk.clock.passes(0.2)

    assert during == still == {A: "resting", B: None, C: None}
    assert desk.excluded() == {A: None, B: None, C: None}


def test_nobody_is_asked_while_all_rest_and_it_is_told_for_how_long() -> None:
    desk = Desk()
    for url, seconds in {A: 20.0, B: 7.0, C: 10_000.0}.items():
        desk.fails(url, HttpFailed(DESK, 503, seconds))

    assert desk.why_nobody() == ("3 asked to be left alone for a while", 7.0)
    desk.clock.passes(LONGEST_REST)
    assert desk.excluded() == {A: None, B: None, C: None}


def test_unhealthy_endpoints_are_left_out_only_while_others_are_left() -> None:
    desk = Desk(Agent(endpoints=[A, B]))
    desk.unwell(A)
    one, chosen = desk.excluded(), {desk.url() for _ in range(20)}
    desk.unwell(B)
    both = {desk.url() for _ in range(50)}
    desk.at(A).probed(healthy=True)

    assert (one, chosen) == ({A: "unhealthy", B: None}, {B})
    assert both == {A, B}
    assert desk.url() == A


def test_the_only_endpoint_is_asked_though_its_card_cannot_be_had() -> None:
    desk = Desk(ONE)
    desk.unwell(A)

    assert desk.url() == A


def test_an_endpoint_whose_card_is_back_is_tried_at_once() -> None:
    desk = Desk(ONE)
    desk.breaks(A)
    desk.unwell(A)

    desk.at(A).probed(healthy=True)

    assert (desk.url(), desk.at(A).circuit.state) == (A, "half_open")


def test_what_failed_just_before_is_asked_only_if_nobody_else_can_be() -> None:
    desk = Desk()

    choices = [desk.choose(avoid=avoid) for avoid in ([], [A], [A, B], [A, B, C])]

    assert [choice.fresh for choice in choices] == [3, 2, 1, 0]
    assert choices[2].endpoint.url == C
    assert [one.excluded for one in choices[2].candidates] == ["failed_just_before"] * 2 + [None]
    assert {desk.url(avoid=[A, B, C]) for _ in range(50)} == {A, B, C}


def test_a_single_endpoint_is_told_of_by_nothing_but_itself() -> None:
    assert Desk(ONE).choose().candidates == ()


def test_of_many_endpoints_twenty_are_told_of() -> None:
    desk = Desk(Agent(endpoints=[f"http://many:{port}" for port in range(1, 61)]))

    for choice in (desk.choose() for _ in range(50)):
        assert len(choice.candidates) == 20
        assert choice.endpoint.public in [one.url for one in choice.candidates]


# Where something is under way


def test_what_is_under_way_stays_where_it_was_begun() -> None:
    desk = Desk()
    desk.answers(A, 60)  # it would not be chosen

    staying = desk.url(stay_at=A)
    desk.unwell(A)
    unwell = desk.url(stay_at=A)

    assert (staying, unwell) == (A, A)
    assert desk.url(stay_at=A, avoid=[A]) in (B, C)  # it was not there just now


@pytest.mark.parametrize("trouble", ["circuit", "gone"])
def test_what_is_under_way_where_nobody_is_goes_on_elsewhere(trouble: str) -> None:
    desk = Desk()
    if trouble == "circuit":
        desk.breaks(A)
    there, others = ("http://replaced:1", {A, B, C}) if trouble == "gone" else (A, {B, C})

    assert {desk.url(stay_at=there) for _ in range(50)} == others


def test_what_is_under_way_at_an_endpoint_that_rests_waits_for_it() -> None:
    desk = Desk()
    desk.fails(A, HttpFailed(DESK, 503, 5))

    assert desk.why_nobody(stay_at=A) == ("1 asked to be left alone for a while", 5)
    desk.clock.passes(5.1)
    assert desk.url(stay_at=A) == A


def test_where_to_ask_after_something_is_known_with_its_credentials() -> None:
    desk = Desk(Agent(endpoints=[A, "http://user:secret@b:1"]))

    asked = [desk.pool.where(DESK, desk.spec, known) for known in (B, A, None, "http://replaced:1")]

    assert asked == ["http://user:secret@b:1", A, A, A]
    assert desk.pool.where(DESK, Agent(), A) == ""


def test_credentials_are_in_no_candidate() -> None:
    desk = Desk(Agent(endpoints=["http://user:secret@a:1", B]))

    assert [one.url for one in desk.choose().candidates] == [A, B]


# Versions


def shares(weights: Mapping[str, float]) -> dict[str, str]:
    """The version of each of ten thousand calls."""
    return {call: in_order(DESK, call, weights)[0] for call in CALLS}


def test_versions_get_their_shares_of_the_calls() -> None:
    got = Counter(shares({"v1": 70, "v2": 20, "v3": 10, "v4": 0}).values())

    assert "v4" not in got
    due = {"v1": 7000, "v2": 2000, "v3": 1000}
    assert max(abs(got[version] - many) for version, many in due.items()) < 150


def test_only_as_many_calls_change_their_version_as_must_when_weights_change() -> None:
    before, after = shares({"v1": 90, "v2": 10}), shares({"v1": 80, "v2": 20})
    moved = Counter((before[call], after[call]) for call in CALLS if before[call] != after[call])

    assert set(moved) == {("v1", "v2")}
    assert abs(moved["v1", "v2"] - 1000) < 100


def test_a_version_that_gets_no_more_calls_gives_them_to_the_others_and_moves_no_other_call() -> None:
    before, after = shares({"v1": 50, "v2": 30, "v3": 20}), shares({"v1": 50, "v2": 30, "v3": 0})

    assert {before[call] for call in CALLS if before[call] != after[call]} == {"v3"}
    assert set(after.values()) == {"v1", "v2"}


def test_agents_share_out_the_same_calls_differently() -> None:
    weights = {"v1": 50, "v2": 50}
    alike = sum(in_order(DESK, call, weights) == in_order("other", call, weights) for call in CALLS)

    assert abs(alike - 5000) < 200


def test_a_call_stays_with_its_version() -> None:
    desk, other = Desk(TWO_VERSIONS), Desk(TWO_VERSIONS)
    seen = {call: desk.choose(call).version for call in CALLS[:500]}
    desk.answers(A, 60)

    assert {call: desk.choose(call).version for call in seen} == seen  # whatever the wait
    assert {call: other.choose(call).version for call in seen} == seen  # on every replica
    call = next(call for call, version in seen.items() if version == "v2")
    assert desk.excluded(call) == {A: "another_version", B: None}


def test_weights_set_at_run_time_win_over_the_flows() -> None:
    desk = Desk(TWO_VERSIONS)
    desk.told(weights=weighing(v1=0, v2=1))
    turned = {desk.choose(call).version for call in CALLS[:100]}, desk.excluded()
    desk.told()

    assert turned == ({"v2"}, {A: "no_weight", B: None})
    assert {desk.choose(call).version for call in CALLS[:100]} == {"v1", "v2"}


def test_a_version_that_cannot_be_asked_is_left_for_another() -> None:
    desk = Desk(TWO_VERSIONS)
    call = next(call for call in CALLS if desk.choose(call).version == "v1")
    fresh = desk.choose(call).fresh
    desk.breaks(A)
    meanwhile = desk.choose(call)
    desk.clock.passes(FIRST_WAIT)

    assert (fresh, meanwhile.version, desk.choose(call).version) == (2, "v2", "v1")
    assert {one.url: one.excluded for one in meanwhile.candidates} == {A: "circuit_open", B: None}


def test_where_every_version_with_weight_is_gone_nobody_is_asked() -> None:
    desk = Desk(Agent.model_validate({"versions": {"v1": {"url": A}, "v2": {"url": B, "weight": 0}}}))
    desk.breaks(A)

    told, seconds = desk.why_nobody()

    assert (told, seconds) == ("1 failed again and again, 1 of a version that gets no calls", FIRST_WAIT)


def test_a_version_that_nobody_has_weighed_is_asked_last() -> None:
    desk = Desk(TWO_VERSIONS)
    desk.told(registered=(instance("new", C, version="v3"),))
    before = {desk.choose(call).version for call in CALLS[:100]}
    desk.breaks(A)
    desk.breaks(B)

    assert (before, desk.choose().version) == ({"v1", "v2"}, "v3")


def test_registered_versions_share_the_calls_as_soon_as_somebody_weighs_them() -> None:
    desk = Desk(Agent(type=DESK))
    desk.told(registered=(instance("old", A, version="1"), instance("new", B, version="2")))
    unweighed = Counter(desk.choose("one call").version for _ in range(200))
    desk.told(registered=desk.pool.news.registered, weights=weighing(**{"1": 1, "2": 0}))

    assert set(unweighed) == {"1", "2"}  # nobody said that they differ
    assert {desk.choose(call).version for call in CALLS[:50]} == {"1"}


def test_how_versions_do_is_counted_for_a_while() -> None:
    desk = Desk(TWO_VERSIONS)
    desk.answers(A, version="v1")
    desk.answers(A, version="v1", state="completed")
    desk.answers(B, version="v2", state="failed")
    desk.answers(B, version="v2", state="input-required")
    desk.fails(B, gone(), version="v2")
    desk.fails(B, RpcFailed(DESK, -32603), version="v2")
    desk.fails(B, asyncio.CancelledError(), version="v2")
    desk.fails(B, HttpFailed(DESK, 404), version="v2")
    counted = desk.pool.counts()
    desk.pool.forget_counts(DESK)
    forgotten = desk.pool.counts()
    desk.answers(A, version="v1")
    desk.clock.passes(301)

    assert counted == {DESK: {"v1": Count(2, 0), "v2": Count(4, 3)}}
    assert (forgotten, desk.pool.counts()) == ({}, {})


@pytest.mark.parametrize(
    ("counts", "margin", "found"),
    [
        ({"v1": Count(100, 1), "v2": Count(100, 30)}, 0.2, "v2"),
        ({"v1": Count(100, 1), "v2": Count(100, 20)}, 0.2, None),
        ({"v1": Count(100, 30), "v2": Count(100, 30)}, 0.01, None),  # both are as bad
        ({"v1": Count(100, 1), "v2": Count(AT_LEAST - 1, AT_LEAST - 1)}, 0.2, None),  # too few to say
        ({"v1": Count(AT_LEAST - 1, 0), "v2": Count(100, 90)}, 0.2, None),
        ({"v2": Count(100, 100)}, 0.2, None),  # no rivals
        ({"v1": Count(20, 0), "v2": Count(20, 0), "v3": Count(40, 20)}, 0.2, "v3"),  # of all others together
        ({"v1": Count(100, 0), "v2": Count(100, 60), "v3": Count(100, 90)}, 0.2, "v3"),  # the worst
        ({}, 0.2, None),
    ],
)
def test_a_version_is_worse_if_its_share_of_errors_exceeds_the_others_by_more_than_the_margin(
    counts: Mapping[str, Count], margin: float, found: str | None
) -> None:
    assert worse(counts, margin) == found


# Off, and who registered


def test_an_agent_that_is_off_is_not_asked() -> None:
    desk = Desk()
    off = Off("ops", "it pays twice", WHEN)
    desk.told(off={DESK: off})

    with pytest.raises(AgentOff) as refused:
        desk.choose()
    assert (refused.value.kind, refused.value.acted, desk.pool.off(DESK, desk.spec)) == ("agent_off", False, off)
    desk.told()
    assert (desk.pool.off(DESK, desk.spec), desk.url() in (A, B, C)) == (None, True)


def test_who_registered_is_one_of_an_agent_by_type_and_not_by_what_it_calls_itself() -> None:
    spec = Agent(url=A, type="counter")
    desk = Desk(spec)
    desk.told(
        registered=(
            instance("one", B, "counter"),
            instance("two", C, DESK),
            instance(DESK, "http://d:1", "something"),
            instance("four", "http://e:1", "other"),
            instance("again", A, "counter"),
        )
    )

    assert [one.endpoint.url for one in desk.pool.members(DESK, spec)] == [A, B, C]


def test_an_agent_without_an_address_has_to_be_registered() -> None:
    desk = Desk(Agent(type="counter"))
    nobody = desk.why_nobody()
    desk.told(registered=(instance("one", B, "counter"),))
    found = desk.url()
    desk.told()

    assert nobody == ("it has none; give it a `url` in its flow, or register one", None)
    assert (found, desk.why_nobody()) == (B, nobody)


def test_an_endpoint_keeps_its_record_while_the_registry_changes() -> None:
    desk = Desk()
    desk.breaks(A)
    desk.told(registered=(instance("one", "http://d:1"),))

    assert desk.excluded()[A] == "circuit_open"


def test_instances_that_come_and_go_leave_nothing_behind() -> None:
    desk = Desk(ONE)

    def come_and_go(hours: int) -> None:
        for _ in range(hours):
            one = instance("one", f"http://pod-{desk.clock.now}:1", version=f"v{desk.clock.now}")
            desk.told(registered=(one,))
            desk.answers(one.url, version=one.version)
            desk.clock.passes(1_800)
            desk.pool.counts()

    come_and_go(9_000)
    tracemalloc.start()
    try:
        come_and_go(1_000)
        left, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert len(list(desk.pool.endpoints())) <= 5
    assert left < 200_000


def test_ten_thousand_instances_at_once_are_forgotten_once_they_are_gone() -> None:
    desk = Desk(ONE)
    desk.told(registered=tuple(instance(f"pod-{number}", f"http://pod-{number}:1") for number in range(10_000)))
    desk.choose()
    there = len(list(desk.pool.endpoints()))
    desk.clock.passes(3_601)
    desk.told()
    desk.choose()

    assert (there, [one.url for one in desk.pool.endpoints()]) == (10_001, [A])
