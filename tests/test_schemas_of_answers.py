"""The JSON Schemas that flows bring: what fits one, and what no schema may do."""

from typing import Any

import pytest

from graph.loader import FlowError, parse_flow
from nodes.schemas import misfit

FLOW = """flow: question
stages:
  approve:
    ask:
      question: Well?
      schema: {schema}
"""


def told(schema: str) -> str:
    with pytest.raises(FlowError) as refused:
        parse_flow(FLOW.replace("{schema}", schema), "question.yaml", {})
    return str(refused.value)


@pytest.mark.parametrize(
    ("value", "schema", "wrong"),
    [
        ("abc", {"pattern": "^[a-c]+$"}, None),
        ("abd", {"pattern": "^[a-c]+$"}, "the answer: 'abd' does not match '^[a-c]+$'"),
        (7, {"pattern": "^x"}, None),
        ({"n_one": 1}, {"patternProperties": {"^n_": {"type": "integer"}}}, None),
        (
            {"n_one": "1"},
            {"patternProperties": {"^n_": {"type": "integer"}}},
            "['n_one']: '1' is not of type 'integer'",
        ),
        ({"a": {"$b": 1}}, {"$defs": {"b": {"type": "string"}}, "properties": {"a": {"$ref": "#/$defs/b"}}}, "['a']"),
    ],
)
def test_what_fits_and_what_does_not(value: Any, schema: dict[str, Any], wrong: str | None) -> None:
    found = misfit(value, schema)
    assert found == wrong or (wrong is not None and found is not None and found.startswith(wrong))


def test_no_pattern_takes_all_time() -> None:
    assert misfit("a" * 5_000 + "!", {"pattern": "^(a+)+$"}) is not None  # would not end, if it went back and forth


@pytest.mark.parametrize(
    ("schema", "wrong"),
    [
        ("{type: nothing}", "question.yaml:6: the schema is no JSON Schema: type: 'nothing' is not valid"),
        ("{$ref: 'http://127.0.0.1:9/schema.json'}", "leads to another document, which is not fetched; correct it"),
        ("{pattern: '(?=a)b'}", "the pattern '(?=a)b' cannot be read in linear time (no look-around"),
        ("{patternProperties: {'(a)\\1': {}}}", "cannot be read in linear time"),
    ],
)
def test_what_is_refused_when_the_flow_is_read(schema: str, wrong: str) -> None:
    assert wrong in told(schema)
