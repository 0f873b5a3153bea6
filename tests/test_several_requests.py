"""Several requests in one message: recognised by words and by a model, kept, and taken up later."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graph import CallGraph, CallState, Flow, TurnContext, build_graph, load_flow
from graph.loader import parse_flow
from nodes.classify import ModelClassifier, TriggerClassifier
from nodes.ports import Classifier, Guess, Utterance
from nodes.remote import Caller, open_client
from nodes.spec import UNKNOWN
from tests.background import Background
from tests.openai_server import ModelServer, Thought, answers, model_server, says

CENTRE = load_flow("contact_centre", {})
LEGAL = list(CENTRE.stages["intent_capture"].intents)
BOTH = "I'd like to lodge a complaint and request a refund"


# By trigger words.


def recognise(text: str, *, several: bool = True, at_hand: tuple[str, ...] = ()) -> list[str]:
    """Return the intents recognised, the first one first."""
    utterance = Utterance(text, "intent_capture", LEGAL, at_hand, several=several)
    guess = asyncio.run(TriggerClassifier(CENTRE.triggers).classify(utterance, timeout=1))
    return [guess.intent, *guess.further]


@pytest.mark.parametrize(
    ("text", "intents"),
    [
        (BOTH, ["complaint", "refund_request"]),
        ("Complaint and refund, please", ["complaint", "refund_request"]),
        ("I want a refund & my balance", ["refund_request", "balance_inquiry"]),
        ("I need a refund. I also need an appointment.", ["refund_request", "booking_request"]),
        ("Can I book a table as well as get my bill?", ["booking_request", "billing_inquiry"]),
        ("A refund; then a booking", ["refund_request", "booking_request"]),
        ("Two things: a complaint, plus a refund", ["complaint", "refund_request"]),
        ("refund, balance, booking", ["refund_request", "balance_inquiry", "booking_request"]),
        ("What is my balance? And can you book me an appointment?", ["balance_inquiry", "booking_request"]),
        ("a refund and a refund and then a booking, and a refund", ["refund_request", "booking_request"]),
    ],
)
def test_several_requests_are_recognised_in_the_order_of_the_words(text: str, intents: list[str]) -> None:
    assert recognise(text) == intents


@pytest.mark.parametrize(
    ("text", "intent"),
    [
        ("a refund for the booking", "refund_request"),
        ("I want a refund for the booking and the fee", "refund_request"),
        ("I was charged twice, and the fee is on my card, so I want a refund", "refund_request"),
        ("My card was stolen and my account is empty", "account_inquiry"),
        ("I paid my bill and I am unhappy", "billing_inquiry"),
        ("There is a charge on my bill. It isn't mine, and I complained already.", "billing_inquiry"),
        ("I did not get my card yet, is it lost?", "account_inquiry"),
        ("Hello and good morning, I need a refund", "refund_request"),
        ("sand and land", UNKNOWN),
        ("and, also; then & plus.", UNKNOWN),
        ("", UNKNOWN),
    ],
)
def test_one_request_stays_one_whatever_is_told_with_it(text: str, intent: str) -> None:
    assert recognise(text) == [intent]


def test_where_one_request_is_asked_for_one_is_recognised() -> None:
    assert recognise(BOTH, several=False) == ["complaint"]


def test_in_doubt_each_request_is_the_one_at_hand() -> None:
    text = "I want the bill account and a refund"
    assert recognise(text) == ["billing_inquiry", "refund_request"]
    assert recognise(text, at_hand=("account_inquiry",)) == ["account_inquiry", "refund_request"]


_words = st.sampled_from([*BOTH.split(), "and", ",", ".", "&", "my", "balance", "bill", "was", "for", "please", "\n"])


@given(text=st.text() | st.lists(_words).map(" ".join))
def test_whatever_is_said_the_requests_are_legal_and_no_doubles(text: str) -> None:
    found, alone = recognise(text), recognise(text, several=False)
    assert len(set(found)) == len(found)
    assert set(found) <= {*LEGAL, UNKNOWN}
    assert len(found) > 1 or found == alone


@pytest.mark.parametrize("text", ["refund, " * 4_000, "a," * 16_000, "ed" * 16_000, "and " * 8_000, "x'" * 16_000])
def test_a_long_message_of_many_clauses_is_read_in_no_time(text: str) -> None:
    started = time.process_time()
    recognise(text)
    assert time.process_time() - started < 0.5


# By a model.


@pytest.fixture(scope="module")
def shared_model(background: Background) -> ModelServer:
    return background.open(model_server())


@pytest.fixture
def model(shared_model: ModelServer) -> ModelServer:
    """A model server that was not asked anything yet."""
    shared_model.bodies.clear()
    return shared_model


def lists(*intents: Any) -> Thought:
    return says(json.dumps({"intents": intents}))


def think(model: ModelServer, thought: Thought, *, several: bool = True) -> Guess:
    """Return what the classifier makes of the model's thought."""
    model.thought = thought

    async def ask() -> Guess:
        classifier = ModelClassifier(model="small", api_key="sk-secret", base_url=model.url)
        try:
            utterance = Utterance(BOTH, "intent_capture", LEGAL, several=several)
            return await classifier.classify(utterance, timeout=10)
        finally:
            await classifier.aclose()

    return asyncio.run(ask())


def test_the_model_is_asked_for_a_list_where_there_may_be_several(model: ModelServer) -> None:
    think(model, lists())
    schema = model.bodies[0]["response_format"]["json_schema"]["schema"]
    assert schema["properties"] == {
        "intents": {"type": "array", "items": {"type": "string", "enum": [*LEGAL, UNKNOWN]}},
        "confidence": {"type": "number"},
    }
    assert "several things" in model.bodies[0]["messages"][0]["content"]


def test_the_model_is_asked_for_one_intent_elsewhere(model: ModelServer) -> None:
    assert think(model, says('{"intent": "complaint"}'), several=False) == Guess("complaint", "llm")
    schema = model.bodies[0]["response_format"]["json_schema"]["schema"]
    assert (list(schema["properties"]), schema["required"]) == (["intent", "confidence"], ["intent", "confidence"])


def test_the_first_in_the_models_list_is_answered_the_others_wait(model: ModelServer) -> None:
    named = lists("complaint", "refund_request", "complaint", "balance_inquiry")
    assert think(model, named) == Guess("complaint", "llm", ("refund_request", "balance_inquiry"))


def test_what_the_model_may_not_choose_is_left_out(model: ModelServer) -> None:
    named = lists("unknown", "process_refund", {"intent": "complaint"}, None, "refund_request")
    assert think(model, named) == Guess("refund_request", "llm")


NO_LISTS = {
    "nothing": lists(),
    "unknown": lists("unknown"),
    "an illegal intent": lists("process_refund"),
    "lists in the list": lists(["complaint"]),
    "a text": says('{"intents": "complaint"}'),
    "null": says('{"intents": null}'),
    "a number": says('{"intents": 1}'),
    "the other form": says('{"intent": "complaint"}'),
    "no JSON": says("complaint and refund"),
    "HTTP 500": answers("{}", 500),
}


@pytest.mark.parametrize("name", NO_LISTS)
def test_an_answer_that_is_no_list_of_intents_is_unknown(model: ModelServer, name: str) -> None:
    guess = think(model, NO_LISTS[name])
    assert (guess.intent, tuple(guess.further)) == (UNKNOWN, ())


# Kept, and taken up later.

COUNTER = """\
flow: counter
waits_for: caller
agents:
  refund: {url: "${REFUND_AGENT_URL}"}
  complaint: {url: "${COMPLAINT_AGENT_URL}"}
  balance: {url: "${BALANCE_AGENT_URL}"}
  fallback: {url: "${FALLBACK_AGENT_URL}"}
  handoff: {url: "${HANDOFF_AGENT_URL}"}
stages:
  counter:
    several: true
    intents: {complaint: complaint, refund_request: refund, balance_inquiry: balance}
    next: [{when: size(requests) > 0, goto: counter}, {goto: goodbye}]
  goodbye: {agent: fallback, next: end}
  desk: {agent: handoff}
anywhere: {escalate: desk}
fallback: fallback
triggers:
  complaint: [complain*]
  refund_request: [refund*]
  balance_inquiry: [balance]
  escalate: [human]
"""

Turn = tuple[str, str | None, list[str]]
"""What the caller says, the intent that the client gives, and what it says is wanted besides."""


def counter(agents: Mapping[str, str], text: str = COUNTER) -> Flow:
    return parse_flow(text, "counter.yaml", {f"{name.upper()}_AGENT_URL": url for name, url in agents.items()})


class Says:
    """A classifier that says what it is told to, and remembers what it was asked."""

    def __init__(self, *guesses: Guess) -> None:
        self._guesses = iter(guesses)
        self.asked: list[Utterance] = []

    async def classify(self, utterance: Utterance, *, timeout: float) -> Guess:
        self.asked.append(utterance)
        return next(self._guesses)


@asynccontextmanager
async def _graph(flow: Flow, classifier: Classifier | None) -> AsyncIterator[CallGraph]:
    async with Caller(open_client()) as caller:
        yield build_graph(flow, caller=caller, classifier=classifier)


def talk(
    agents: Mapping[str, str], *turns: Turn, classifier: Classifier | None = None, text: str = COUNTER
) -> list[CallState]:
    """Return the state after each turn of one call."""

    async def story() -> list[CallState]:
        states: list[Any] = []
        async with _graph(counter(agents, text), classifier) as graph:
            for words, intent, further in turns:
                said: CallState = {"call_identify_id": "C", "account_id": "A", "eci": "E", "input_message": words}
                if intent:
                    said["intent"] = intent
                if further:
                    said["further_intents"] = further
                state = await graph.ainvoke(said, {"configurable": {"thread_id": "C"}}, context=TurnContext())
                states.append(state)
        return states

    return asyncio.run(story())


def told(states: list[CallState]) -> list[tuple[str, str, str, list[str]]]:
    """Return of each turn its intent, where that came from, the stage after it, and what waits then."""
    return [
        (step["intent"], step["intent_source"], state["stage"], step.get("requests", []))
        for state in states
        for step in state["steps"][-1:]
    ]


def test_what_the_client_names_besides_waits(agents: dict[str, str]) -> None:
    wanted = ["refund_request", "balance_inquiry", "refund_request", "complaint", "closing", "no_such_intent"]
    states = talk(agents, ("All of it", "complaint", wanted), ("next", None, []), ("next", None, []))

    assert told(states) == [
        ("complaint", "declared", "counter", ["refund_request", "balance_inquiry"]),
        ("refund_request", "kept", "counter", ["balance_inquiry"]),
        ("balance_inquiry", "kept", "goodbye", []),
    ]
    assert states[0]["requests"][0] == {"intent": "refund_request", "input_message": "All of it"}


def test_a_stage_may_go_by_the_requests_of_its_own_turn(agents: dict[str, str]) -> None:
    assert told(talk(agents, ("complaint and refund", None, []), ("go on", None, []))) == [
        ("complaint", "triggers", "counter", ["refund_request"]),
        ("refund_request", "kept", "goodbye", []),
    ]


def test_words_that_name_something_else_go_before_what_waits(agents: dict[str, str]) -> None:
    states = talk(agents, ("complaint and refund", None, []), ("my balance?", None, []), ("go on", None, []))

    assert told(states)[1:] == [
        ("balance_inquiry", "triggers", "counter", ["refund_request"]),
        ("refund_request", "kept", "goodbye", []),
    ]


def test_words_that_name_one_that_waits_take_that_one(agents: dict[str, str]) -> None:
    states = talk(agents, ("complaint, refund, balance", None, []), ("the balance first", None, []))

    assert told(states)[1] == ("balance_inquiry", "kept", "counter", ["refund_request"])


def test_in_doubt_what_waits_is_likelier_than_what_was_talked_about(agents: dict[str, str]) -> None:
    states = talk(agents, ("complaint and refund", None, []), ("complained of refunds", None, []))

    assert told(states)[1] == ("refund_request", "kept", "goodbye", [])


@pytest.mark.parametrize("again", [["refund_request"], []], ids=["again besides", "by itself"])
def test_a_request_that_is_made_twice_waits_once(agents: dict[str, str], again: list[str]) -> None:
    states = talk(
        agents,
        ("complaint and refund", None, []),
        ("and my balance", "balance_inquiry", again),
        ("now the refund", "refund_request", again),
    )

    assert told(states)[1:] == [
        ("balance_inquiry", "declared", "counter", ["refund_request"]),
        ("refund_request", "declared", "goodbye", []),
    ]


def test_more_may_be_asked_for_while_something_waits(agents: dict[str, str]) -> None:
    states = talk(agents, ("complaint and refund", None, []), ("a refund, and my balance please", None, []))

    assert told(states)[1] == ("refund_request", "kept", "counter", ["balance_inquiry"])


def test_what_nobody_understood_does_not_lose_what_was_asked_for_besides(agents: dict[str, str]) -> None:
    states = talk(agents, ("juggle", "unknown", ["refund_request"]), ("go on", None, []))

    assert told(states) == [
        ("unknown", "declared", "counter", ["refund_request"]),
        ("refund_request", "kept", "goodbye", []),
    ]


def test_a_request_whose_agent_fails_waits_with_the_others(agents: dict[str, str]) -> None:
    out_of_reach = {**agents, "complaint": "http://127.0.0.1:9"}
    states = talk(out_of_reach, ("complaint and refund", None, []), ("try again", None, []))

    waiting = ["complaint", "refund_request"]
    assert told(states) == [
        ("complaint", "triggers", "counter", waiting),
        ("complaint", "kept", "counter", waiting),
    ]


def test_a_failure_that_the_flow_goes_on_from_is_the_end_of_the_request(agents: dict[str, str]) -> None:
    going_on = COUNTER.replace("several: true", "several: true\n    on_error: continue")
    out_of_reach = {**agents, "complaint": "http://127.0.0.1:9"}

    states = talk(out_of_reach, ("complaint and refund", None, []), text=going_on)

    assert told(states) == [("complaint", "triggers", "counter", ["refund_request"])]


def test_a_person_is_called_for_before_anything_that_waits(agents: dict[str, str]) -> None:
    states = talk(agents, ("complaint and refund", None, []), ("a human please", None, []))

    assert told(states)[1] == ("escalate", "triggers", "desk", ["refund_request"])
    assert states[1]["is_complete"]


def test_the_classifier_is_told_what_waits_and_not_to_repeat_the_client(agents: dict[str, str]) -> None:
    classifier = Says(Guess("complaint", "llm"), Guess(UNKNOWN, "none"))

    talk(agents, ("both", None, ["refund_request"]), ("go on", None, []), classifier=classifier)

    legal = ["complaint", "refund_request", "balance_inquiry", "escalate"]
    assert classifier.asked == [
        Utterance("both", "counter", legal, [], several=False),
        Utterance("go on", "counter", legal, ["refund_request"], several=True),
    ]


def test_a_very_long_request_is_kept_by_its_beginning(agents: dict[str, str]) -> None:
    [state] = talk(agents, ("x" * 30_000, "complaint", ["refund_request"]))

    assert state["requests"] == [{"intent": "refund_request", "input_message": "x" * 4_000}]
