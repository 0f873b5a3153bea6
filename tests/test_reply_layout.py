"""An agent's answer is kept as text, data and files, and can be given back as it lay in artifacts and message."""

from dataclasses import asdict
from itertools import groupby
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodes.parts import Folded, Unreadable, fold, read_part, unfold
from nodes.ports import FilePart

Json = dict[str, Any]


def _given_back(folded: Folded) -> tuple[list[Json], Json | None]:
    """Unfold what a step would have kept, after it was written as JSON and read again."""
    response = {"text": folded.text, "data": folded.data, "files": [asdict(file) for file in folded.files]}
    response = {key: value for key, value in response.items() if value}
    return unfold(*orjson.loads(orjson.dumps([response, folded.layout])))


_words = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.just("a\nb")
_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | _words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_words, inner, max_size=3),
    max_leaves=6,
)
_metadata = st.dictionaries(_words, _values, max_size=2)
_named = {"filename": _words, "mediaType": _words, "metadata": _metadata}
_parts = st.one_of(
    *(
        st.fixed_dictionaries({kind: content}, optional=_named)
        for kind, content in {"text": _words, "raw": st.just("UERG"), "url": _words, "data": _values}.items()
    )
)
_held = {"metadata": _metadata, "extensions": st.lists(_words, max_size=2)}
_holds = {"parts": st.lists(_parts, max_size=4)}
_messages = st.fixed_dictionaries(_holds, optional=_held)
_artifacts = st.fixed_dictionaries(
    {"artifactId": _words.filter(bool), **_holds}, optional={"name": _words, "description": _words, **_held}
)


@given(artifacts=st.lists(_artifacts, max_size=3), message=st.none() | _messages)
def test_an_answer_is_given_back_as_it_was(artifacts: list[Json], message: Json | None) -> None:
    assert _given_back(fold(artifacts, message)) == (artifacts, message)


@given(artifacts=st.lists(_artifacts, max_size=3), message=st.none() | _messages)
def test_the_text_is_that_of_all_parts_in_order(artifacts: list[Json], message: Json | None) -> None:
    pieces = [
        "".join(part["text"] for part in together)
        for artifact in artifacts
        for is_text, together in groupby(artifact["parts"], lambda part: "text" in part)
        if is_text
    ]
    said = [part.get("text") for part in (message or {"parts": []})["parts"]]
    assert fold(artifacts, message).text == "\n".join(text for text in [*pieces, *said] if text)


def test_an_empty_text_begins_nothing() -> None:
    texts = [["one"], ["", "two", "", " three"]]
    artifacts = [{"artifactId": words[-1], "parts": [{"text": text} for text in words]} for words in texts]
    assert fold(artifacts, None).text == "one\ntwo three"


@pytest.mark.parametrize(
    "message",
    [
        None,
        {"parts": [{"text": "hello"}]},
        {"messageId": "m", "role": "agent", "kind": "message", "parts": [{"kind": "text", "text": "hello"}]},
        {"parts": [{"text": "look"}, {"data": [1]}, {"url": "https://f", "filename": "f", "mediaType": "text/html"}]},
    ],
)
def test_a_plain_message_needs_no_layout(message: Json | None) -> None:
    assert fold([], message).layout is None


def test_a_layout_holds_no_content() -> None:
    raw, words, data = "UERG" * 1000, "words " * 1000, {"much": ["data"] * 1000}
    parts = [{"text": words}, {"raw": raw, "filename": "f.pdf", "mediaType": "application/pdf"}, {"data": data}]

    folded = fold([{"artifactId": "a", "name": "the papers", "parts": parts}], {"parts": [{"text": "That is all."}]})

    assert folded.layout == {
        "artifacts": [
            {"artifactId": "a", "name": "the papers", "parts": [{"text": [0, 6000]}, {"file": 0}, {"data": 0}]}
        ],
        "message": {"parts": [{"text": [6001, 6013]}]},
    }


_META = {"language": "en"}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"kind": "text", "text": "hi", "metadata": _META}, {"text": "hi", "metadata": _META}),
        ({"kind": "text", "text": ""}, {"text": ""}),
        (
            {"kind": "file", "file": {"bytes": "UERG", "name": "f", "mimeType": "text/plain"}, "metadata": _META},
            {"raw": "UERG", "filename": "f", "mediaType": "text/plain", "metadata": _META},
        ),
        ({"kind": "file", "file": {"uri": "https://f", "name": None}}, {"url": "https://f"}),
        ({"kind": "data", "data": {"a": 1}, "metadata": _META}, {"data": {"a": 1}, "metadata": _META}),
        (
            {"kind": "data", "data": {"value": [1]}, "metadata": {"data_part_compat": True, **_META}},
            {"data": [1], "metadata": _META},
        ),
        ({"kind": "data", "data": {"value": 1}, "metadata": {"data_part_compat": True}}, {"data": 1}),
    ],
)
def test_parts_of_0_3_become_those_of_1_0(old: Json, new: Json) -> None:
    assert read_part(old) == new
    assert read_part(new) == new


@pytest.mark.parametrize(
    "part", [{"kind": "hologram", "hologram": [1]}, {}, {"text": 5}, {"file": {}}, {"raw": None}]
)
def test_a_part_of_an_unknown_kind_is_kept_as_data(part: Json) -> None:
    folded = fold([], {"parts": [part]})
    assert folded.data == (part,)
    assert _given_back(folded) == ([], {"parts": [{"data": part}]})


def test_artifacts_without_an_id_are_numbered() -> None:
    artifacts, _ = _given_back(fold([{"parts": []}, {"artifactId": 7}, {"artifactId": "a"}], None))
    assert [artifact["artifactId"] for artifact in artifacts] == ["1", "2", "a"]


@pytest.mark.parametrize(
    "part",
    [
        "hello",
        {"file": "hello"},
        {"raw": 5},
        {"url": "https://f", "filename": 5},
        {"data": 2**70},
        {"text": "hi", "metadata": {"big": 2**70}},
    ],
)
def test_a_part_that_cannot_be_kept_is_refused(part: Any) -> None:
    with pytest.raises(Unreadable):
        fold([{"artifactId": "a", "parts": [part]}], None)


def test_a_step_from_before_layouts_is_one_message() -> None:
    response = {"text": "hi", "data": [1], "files": [{"name": "f", "url": "https://f"}], "task_state": "completed"}
    parts = [{"text": "hi"}, {"data": 1}, {"filename": "f", "url": "https://f"}]
    assert unfold(response, None) == ([], {"parts": parts})


def test_a_failed_step_has_neither_artifacts_nor_message() -> None:
    assert unfold({"error": {"type": "timeout"}}, None) == ([], None)


def test_a_file_is_kept_with_its_name_and_type() -> None:
    folded = fold([], {"parts": [{"raw": "UERG", "filename": "f.pdf", "mediaType": "application/pdf"}]})
    assert folded.files == (FilePart("f.pdf", "application/pdf", bytes="UERG"),)
