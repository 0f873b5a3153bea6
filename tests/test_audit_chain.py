"""The chain over an audit trail: whatever is done to a sealed trail is found, and erasing words breaks nothing."""

import copy
import json
from typing import Any, cast

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graph.audit import WORDS, Fault, erased, erasures, sealed, start_of, verify
from nodes.state import Step

START = start_of("default__call_2d1", "7f3c")
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
NUMBERS = st.integers(-(2**63), 2**64 - 1) | st.floats()
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


def step(number: int, said: str, answer: dict[str, Any] | None = None, **more: Any) -> Step:
    """Return a step of a call, before it is sealed."""
    plain = {
        "number": number,
        "stage": "greeting",
        "intent": "greeting",
        "input_message": said,
        "agent": "greeting",
        "message_id": f"m-{number}",
        "response_status": "success",
        "response_data": answer or {"text": f"answer {number}"},
        "duration_ms": 12.5,
        "is_complete": False,
    }
    return cast(Step, {**plain, **more})


def trail(*steps: Step, start: str = START, key: bytes = b"") -> tuple[list[Any], str]:
    """Seal steps one after another; return them, and the hash of the last."""
    before, done = start, []
    for each in steps:
        one, before = sealed(each, before, key)
        done.append(one)
    return done, before


def four() -> tuple[list[Any], str]:
    """Return a sealed trail of four steps."""
    parts = [{"text": "My phone is 555-0100"}, {"raw": "aGVsbG8="}]
    return trail(
        step(1, "Hello"), step(2, "My PIN is 1234", tried=[]), step(3, "Refund", parts=parts), step(4, "Bye")
    )


def again(value: Any) -> Any:
    """Return a value as it comes back from the store or a file."""
    return orjson.loads(orjson.dumps(value))


def test_a_trail_as_it_was_sealed_is_sound() -> None:
    steps, head = four()

    assert verify(again(steps), START, head=head, count=4) == []
    assert verify([], START, head=START, count=0) == []


def test_a_step_keeps_what_it_says_and_gets_a_hash_and_a_salt_for_each_field_of_words() -> None:
    plain = step(1, "Hello", parts=[{"text": "Hello"}])
    one, head = sealed(plain, START)
    audit = one["audit"]

    assert {**one, "audit": None} == {**plain, "audit": None}
    assert (audit["hash"], set(audit["salts"])) == (head, {"input_message", "response_data", "parts"})
    assert {len(salt) for salt in audit["salts"].values()} == {22}
    assert "audit" not in plain


def test_a_plain_step_grows_by_155_bytes() -> None:
    plain = step(1, "Hello")

    assert len(orjson.dumps(sealed(plain, START)[0])) - len(orjson.dumps(plain)) == 155


def test_the_same_words_twice_have_different_commitments_so_that_nobody_can_guess_at_them() -> None:
    one, other = (erased(sealed(step(1, "yes"), START)[0], "input_message") for _ in range(2))

    assert one["audit"]["erased"] != other["audit"]["erased"]


CHANGED = "was changed, or what came before it is missing, new or in another place"


@pytest.mark.parametrize("field", ["input_message", "response_data", "response_status", "duration_ms", "stage"])
def test_a_changed_field_is_found_in_its_step(field: str) -> None:
    steps, head = four()
    steps[1][field] = "something else"

    assert verify(steps, START, head=head, count=4) == [Fault(2, CHANGED)]


@pytest.mark.parametrize("field", ["note", "layout", "resolution"])
def test_a_field_that_was_added_is_found_also_where_it_is_one_of_words(field: str) -> None:
    steps, head = four()
    steps[1][field] = {"why": "because"}

    assert verify(steps, START, head=head, count=4) == [Fault(2, CHANGED)]


def test_a_removed_step_is_found_where_the_next_one_follows_on_it() -> None:
    steps, head = four()
    del steps[1]

    assert verify(steps, START, head=head, count=4) == [
        Fault(3, f"{CHANGED} (it is where step 2 should be)"),
        Fault(None, "the trail ends with step 3, and should with step 4"),
    ]


def test_steps_removed_at_the_end_are_found_by_the_head_that_was_kept_elsewhere() -> None:
    steps, head = four()

    assert verify(steps[:3], START, head=head) == [
        Fault(None, "the trail does not end with the hash that was kept of its last step")
    ]
    assert len(verify([], START, head=head, count=4)) == 2
    assert verify(steps[:3], START) == []  # without the head, nobody can tell


def test_steps_in_another_order_and_steps_put_in_are_found() -> None:
    steps, head = four()
    one, two, three, last = steps
    forged, _ = sealed(step(3, "Never said"), two["audit"]["hash"])

    assert [fault.step for fault in verify([one, three, two, last], START, head=head)] == [3, 2, 4]
    assert [fault.step for fault in verify([one, one, two, three, last], START, head=head)] == [1]
    assert [fault.step for fault in verify([one, two, forged, last], START, head=head)] == [4]


def test_steps_of_another_call_and_of_last_weeks_call_are_found() -> None:
    steps, head = four()

    for start in (start_of("default__call_2d2", "7f3c"), start_of("default__call_2d1", "0000")):
        assert verify(steps, start, head=head, count=4) == [Fault(1, CHANGED)]


def test_swapped_salts_are_found() -> None:
    steps, head = four()
    salts = steps[2]["audit"]["salts"]
    salts["input_message"], salts["parts"] = salts["parts"], salts["input_message"]

    assert verify(steps, START, head=head) == [Fault(3, CHANGED)]


def test_a_salt_that_takes_a_part_of_the_words_or_is_spelled_otherwise_is_found() -> None:
    steps, head = four()
    salts: list[Any] = [steps[0]["audit"]["salts"]["input_message"][:-1] + "_", "AAAA", "", 7, None, ["é"], {}]
    for salt in salts:
        broken = copy.deepcopy(steps)
        broken[0]["audit"]["salts"]["input_message"] = salt
        assert [fault.step for fault in verify(broken, START, head=head)] == [1]


@pytest.mark.parametrize("change", [{"note": "hidden"}, {"erased": []}, {"salts": None}, {"erased": {"note": "x"}}])
def test_nothing_can_be_hidden_in_a_seal(change: dict[str, Any]) -> None:
    steps, head = four()
    steps[0]["audit"] |= change

    assert [fault.step for fault in verify(steps, START, head=head)] == [1]


def test_a_commitment_cannot_stand_in_place_of_the_words_that_it_is_to() -> None:
    steps, head = four()
    said = erased(steps[0], "input_message")["audit"]["erased"]["input_message"]
    steps[0]["input_message"] = said
    del steps[0]["audit"]["salts"]["input_message"]

    assert verify(steps, START, head=head) == [Fault(1, CHANGED)]


def test_a_step_without_a_seal_is_found() -> None:
    steps, head = four()
    del steps[0]["audit"]

    assert verify(steps, START, head=head) == [Fault(1, "is not sealed"), Fault(2, CHANGED)]


@pytest.mark.parametrize("field", WORDS)
def test_an_erased_field_leaves_the_chain_whole(field: str) -> None:
    words: dict[str, Any] = {name: {"why": "secret"} for name in WORDS}
    steps, head = trail(cast(Step, {**step(1, "Hello"), **words}), step(2, "Bye"))
    steps[0] = again(erased(steps[0], field))

    assert verify(steps, START, head=head, count=2) == []
    assert erasures(steps[0]) == [field]
    assert field not in steps[0]["audit"]["salts"]
    assert steps[0].get(field) == {"input_message": "", "response_data": {"erased": True}}.get(field)


def test_everything_can_be_erased_and_erasing_twice_is_erasing_once() -> None:
    steps, head = four()
    for place, one in enumerate(steps):
        for field in (*WORDS, *WORDS):
            one = erased(one, field)
        steps[place] = one

    assert verify(steps, START, head=head, count=4) == []
    assert not any(word in json.dumps(steps) for word in ("PIN", "555", "answer", "aGVsbG8", "Refund"))


def test_other_words_in_place_of_erased_ones_are_found() -> None:
    steps, head = four()
    steps[1] = erased(erased(steps[1], "input_message"), "response_data")
    for change in ({"input_message": "I owe you"}, {"response_data": {"erased": 1}}, {"response_data": {"text": ""}}):
        assert [fault.step for fault in verify([steps[0], {**steps[1], **change}], START)] == [2]
    del steps[1]["input_message"]
    assert [fault.step for fault in verify(steps, START, head=head)] == [2]


def test_a_changed_erasure_is_found() -> None:
    steps, head = four()
    steps[1] = erased(steps[1], "input_message")
    steps[1]["audit"]["erased"]["input_message"] = "A" * 43

    assert verify(steps, START, head=head) == [Fault(2, CHANGED)]


def test_only_words_can_be_erased() -> None:
    with pytest.raises(ValueError, match="'agent' holds nothing that people said; choose among input_message, "):
        erased(sealed(step(1, "Hello"), START)[0], "agent")


def test_with_a_key_only_who_has_it_can_make_a_chain() -> None:
    key = b"a key of 16 byte"
    steps, head = trail(step(1, "Hello"), step(2, "Bye"), key=key)
    forged, forged_head = trail(step(1, "Hello"), step(2, "I said yes"))

    assert verify(steps, START, head=head, count=2, key=key) == []
    assert [fault.step for fault in verify(forged, START, head=forged_head, key=key)] == [1, 2]
    assert [fault.step for fault in verify(steps, START, head=head)] == [1, 2]


@given(JSON, st.sampled_from(("input_message", "response_data", "duration_ms", "timing")))
def test_what_goes_through_json_and_back_is_still_sound(value: Any, field: str) -> None:
    steps, head = trail(cast(Step, {**step(1, "Hello"), field: value}), step(2, "Bye"))
    by_python = json.loads(json.dumps(steps))

    assert verify(again(steps), START, head=head, count=2) == []
    assert verify(by_python, START, head=head, count=2) == []
    assert verify(json.loads(orjson.dumps(by_python, option=orjson.OPT_SORT_KEYS)), START, head=head, count=2) == []


@given(JSON, JSON)
def test_another_value_is_another_hash(value: Any, other: Any) -> None:
    steps, head = trail(step(1, "Hello", {"data": [value]}))
    steps[0]["response_data"] = {"data": [other]}
    is_same = orjson.dumps(value, option=orjson.OPT_SORT_KEYS) == orjson.dumps(other, option=orjson.OPT_SORT_KEYS)

    assert (verify(steps, START, head=head) == []) == is_same


@given(st.lists(JSON, max_size=4), st.integers(0, 4), JSON)
def test_garbage_is_found_and_never_raises(garbage: list[Any], place: int, audit: Any) -> None:
    steps, head = four()
    for junk in (*garbage, {"audit": audit}, {**steps[0], "audit": audit}):
        assert verify([*steps[:place], junk, *steps[place + 1 :]], START, head=head, count=4) != []


@pytest.mark.parametrize("depth", [200, 900, 100_000])
def test_steps_nested_too_deeply_are_found_and_never_raise(depth: int) -> None:
    nested: Any = []
    for _ in range(depth):
        nested = [nested]
    steps, head = four()
    seal = steps[1]["audit"]

    for junk in (nested, {"audit": nested}, {**steps[1], "response_data": nested}, {**steps[1], "stage": nested}):
        assert verify([steps[0], junk, *steps[2:]], START, head=head, count=4) != []
    for audit in ({**seal, "hash": nested}, {**seal, "salts": nested}, {**seal, "erased": {"x": nested}}):
        assert verify([steps[0], {**steps[1], "audit": audit}, *steps[2:]], START, head=head, count=4) != []


@pytest.mark.parametrize("junk", [{"number": 2, 3: 4}, {"text": "\ud800"}, {"set": {1}}, b"bytes", object()])
def test_what_is_no_json_is_found_and_never_raises(junk: Any) -> None:
    steps, head = four()
    for broken in (
        junk,
        {**steps[1], "response_data": junk},
        {**steps[1], "audit": {**steps[1]["audit"], "hash": junk}},
    ):
        assert verify([steps[0], broken, *steps[2:]], START, head=head)[0].step == 2
