"""Stages that a model answers, over real HTTP: what it is asked, what its words are worth, and what can fail."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from graph import build_graph, steps_of
from graph.loader import parse_flow
from graph.models import choose_model
from nodes.models import OpenAIModel
from tests.background import Background
from tests.openai_server import ModelServer, Thought, answers, hangs, model_server, refuses, says, thinks

ONE = """\
flow: one
agents: {desk: {url: "http://127.0.0.1:1"}}
fallback: desk
inputs: [number, words, items]
stages:
  reader:
    llm:
      system: "You read {{ words }}."
      prompt: "Read this: {{ input_message }}"
"""
SCHEMA = """
      schema: {type: object, properties: {topic: {type: string}, count: {type: integer}}, required: [topic]}
    output: {data: facts}
"""
JSON = ONE.rstrip() + SCHEMA
LIST = JSON.replace("{type: object, ", "{type: array, items: {type: string}, ").replace(", required: [topic]", "")


@dataclass(frozen=True)
class Told:
    """What a run came to."""

    state: Mapping[str, Any]
    steps: list[Any]

    @property
    def response(self) -> Any:
        return self.steps[-1]["response_data"]

    @property
    def error(self) -> Any:
        return self.response["error"]


@pytest.fixture(scope="module")
def shared_model(background: Background) -> ModelServer:
    return background.open(model_server())


@pytest.fixture
def model(shared_model: ModelServer) -> ModelServer:
    """A model server that was not asked anything yet."""
    shared_model.bodies.clear()
    shared_model.headers.clear()
    shared_model.thought = says("well")
    return shared_model


@asynccontextmanager
async def client(url: str, key: str = "sk-secret") -> AsyncIterator[OpenAIModel]:
    chosen = choose_model(key, model="small", base_url=url)
    assert chosen is not None
    try:
        yield chosen
    finally:
        await chosen.aclose()


def run(text: str, url: str, *said: str, timeout: float = 10, **context: Any) -> Told:
    """Run a flow with the model at an address, with one message after another."""

    async def story() -> Told:
        config: Any = {"configurable": {"thread_id": "RUN-1"}}
        async with client(url) as chosen:
            graph = build_graph(parse_flow(text, "one.yaml", {}), model=chosen, agent_timeout=timeout)
            for words in said or ("A tale.",):
                state = await graph.ainvoke({"input_message": words, "context": context}, config)
            return Told(state, await steps_of(graph, config))

    return asyncio.run(story())


def heard(model: ModelServer, thought: Thought, text: str = JSON, **more: Any) -> Told:
    """What comes of a thought of the model."""
    model.thought = thought
    return run(text, model.url, **more)


# What the model is asked.


def test_the_step_says_who_answered_what(model: ModelServer) -> None:
    told = heard(model, says("It is a tale."), ONE)

    assert len(told.steps) == 1
    step = told.steps[0]
    told_of = ("stage", "agent", "a2a_agent_url", "input_message", "response_status", "is_complete")
    assert {key: step[key] for key in told_of} == {
        "stage": "reader",
        "agent": "model",
        "a2a_agent_url": model.url,
        "input_message": "Read this: A tale.",
        "response_status": "success",
        "is_complete": True,
    }
    assert step["response_data"]["text"] == "It is a tale."


def test_the_address_is_shown_without_credentials(model: ModelServer) -> None:
    told = run(ONE, model.url.replace("http://", "http://user:secret@"))

    assert told.steps[0]["a2a_agent_url"] == model.url
    assert "secret" not in json.dumps(told.steps)


def test_a_stage_that_wants_nothing_special_asks_for_nothing_special(model: ModelServer) -> None:
    run(ONE, model.url, words="tales")

    assert model.bodies == [
        {
            "model": "small",
            "stream": False,
            "messages": [
                {"role": "system", "content": "You read tales."},
                {"role": "user", "content": "Read this: A tale."},
            ],
        }
    ]
    assert model.headers[0]["authorization"] == "Bearer sk-secret"


def test_model_temperature_and_schema_go_along(model: ModelServer) -> None:
    heard(
        model,
        says('{"topic": "tales"}'),
        JSON.replace("    output", "      model: large\n      temperature: 0\n    output"),
    )

    body = model.bodies[0]
    assert (body["model"], body["temperature"]) == ("large", 0)
    assert body["response_format"]["type"] == "json_schema"
    assert body["response_format"]["json_schema"]["schema"] == {
        "type": "object",
        "properties": {"topic": {"type": "string"}, "count": {"type": "integer"}},
        "required": ["topic"],
    }


LIMITED = ONE + "      max_tokens: 7\n"


def test_servers_that_know_only_the_older_name_of_the_limit_are_told_that(model: ModelServer) -> None:
    told = heard(model, refuses("max_completion_tokens", says("well")), LIMITED)

    assert told.response["text"] == "well"
    assert model.bodies[0]["max_tokens"] == 7


def test_openai_is_told_the_newer_name_of_the_limit(model: ModelServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", model.url.removesuffix("/v1"))
    model.thought = refuses("max_tokens", says("well"))

    told = run(LIMITED, "http://eu.api.openai.com/v1")

    assert told.response["text"] == "well"
    assert (model.headers[0]["host"], model.bodies[0]["max_completion_tokens"]) == ("eu.api.openai.com", 7)


def test_holes_hold_whatever_the_run_knows(model: ModelServer) -> None:
    text = ONE.replace(
        "Read this: {{ input_message }}", "{{ number }}, {{words}}, {{ items }}, {{ items[0].a + 1 }}."
    )

    run(text, model.url, number=1.5, words=None, items=[{"a": 1}, "é"])

    assert model.prompts() == ['1.5, , [{"a": 1}, "é"], 2.']


def test_input_gives_names_to_what_the_prompt_reads(model: ModelServer) -> None:
    branch = "parallel: {a: {llm: {prompt: 'Say {{ words }}'}, input: {words: 'input_message + \"!\"'}}}"
    text = ONE.partition("    llm:")[0] + f"    {branch}\n"

    run(text, model.url)

    assert model.prompts() == ["Say A tale.!"]


def test_a_hole_that_cannot_be_filled_fails_the_step_and_nobody_is_asked(model: ModelServer) -> None:
    told = run(ONE.replace("{{ input_message }}", "{{ items[3] }}"), model.url, items=[])

    assert told.error["type"] == "expression_failed"
    assert told.error["message"].startswith("'items[3]' cannot be worked out")
    assert model.bodies == []


@pytest.mark.parametrize(
    "words", ["{{ account_id }}", "${HOME}", "{0.__class__}", "%s", "}}", "1 + 1", "''.format()"]
)
def test_words_are_never_worked_out(model: ModelServer, words: str) -> None:
    text = ONE + "    output: {text: said}\n  after: {llm: {prompt: 'It said: {{ said }}'}}\n"

    told = heard(model, says(words), text)

    assert model.prompts() == ["Read this: A tale.", f"It said: {words}"]
    assert told.response["text"] == words


# What its words are worth.


@pytest.mark.parametrize(
    "said",
    [
        '{"topic": "tales", "count": 3}',
        '```json\n{"topic": "tales", "count": 3}\n```',
        '\n```\n{"topic": "tales", "count": 3}```\n',
        '```JSON {"topic": "tales", "count": 3} ```',
    ],
)
def test_json_is_kept_as_what_it_says(model: ModelServer, said: str) -> None:
    told = heard(model, says(said))

    assert told.state["context"]["facts"] == {"topic": "tales", "count": 3}
    assert told.response["data"] == [{"topic": "tales", "count": 3}]


@pytest.mark.parametrize(
    "said",
    [
        "It is about tales.",
        'Here you are: {"topic": "tales"}',
        '{"topic": "tal',
        '{"topic": NaN}',
        '{"topic": 1e999}',
        '{"topic": "tales"} {"topic": "tales"}',
        "[" * 100_000,
        '{"topic": ' + "[" * 250 + "]" * 250 + "}",
    ],
)
def test_what_is_not_json_is_kept_raw_and_the_run_goes_on(model: ModelServer, said: str) -> None:
    told = heard(model, says(said))

    assert told.state["context"]["facts"] == {"raw": said}
    assert (told.response["text"], told.state["is_complete"]) == (said, True)


def test_half_a_character_at_the_end_of_an_answer_is_replaced(model: ModelServer) -> None:
    told = heard(model, says("fine \ud83d\ude00\ud83d"), ONE)

    assert told.response["text"] == "fine \U0001f600\ufffd"


@pytest.mark.parametrize(
    ("said", "wrong"),
    [
        ('{"count": 3}', "the answer: 'topic' is a required property"),
        ('{"topic": "tales", "count": "three"}', "['count']: 'three' is not of type 'integer'"),
        ('"tales"', "the answer: 'tales' is not of type 'object'"),
        ("null", "the answer: None is not of type 'object'"),
    ],
)
def test_json_that_does_not_fit_fails_the_step_and_can_be_asked_for_again(
    model: ModelServer, said: str, wrong: str
) -> None:
    thoughts = thinks({"again": says('{"topic": "tales"}'), "": says(said)})
    model.thought = thoughts

    told = run(JSON, model.url, "A tale.", "Once again.")

    first, second = told.steps
    assert first["response_data"]["error"] == {
        "type": "bad_reply",
        "message": f"agent 'model' gave no usable answer: it does not fit its schema: {wrong}",
        "retryable": False,
    }
    assert (first["next_flow_id"], first["is_complete"]) == (1, False)
    assert (second["response_status"], told.state["context"]["facts"]) == ("success", {"topic": "tales"})


@pytest.mark.parametrize(
    "said", ['["one", "two"]', '{"answer": ["one", "two"]}', '```json\n{"answer": ["one", "two"]}\n```']
)
def test_a_list_is_asked_for_within_an_object_and_taken_out_of_it(model: ModelServer, said: str) -> None:
    told = heard(model, says(said), LIST)

    assert model.bodies[0]["response_format"]["json_schema"]["schema"]["type"] == "object"
    assert told.state["context"]["facts"] == ["one", "two"]


def test_a_list_that_does_not_fit_is_told_of_as_what_it_is(model: ModelServer) -> None:
    told = heard(model, says('{"answer": ["one", 2]}'), LIST)

    assert told.error["message"].endswith("[1]: 2 is not of type 'string'")


@pytest.mark.parametrize("text", [ONE, JSON])
@pytest.mark.parametrize(
    ("thought", "why"),
    [
        (says(None, refusal="I'm sorry, no."), "it refuses: I'm sorry, no."),
        (says(" \n"), "it says nothing"),
        (says(None), "it says nothing"),
    ],
)
def test_no_answer_is_no_success(model: ModelServer, text: str, thought: Thought, why: str) -> None:
    told = heard(model, thought, text)

    assert told.error["message"] == f"agent 'model' gave no usable answer: {why}"


def test_json_that_was_cut_off_is_told_of_with_the_remedy(model: ModelServer) -> None:
    told = heard(model, says('{"topic": "ta', finish="length"))

    assert told.error["message"].endswith("it was cut off; raise `max_tokens`, or ask for less")


# What can fail.


@pytest.mark.parametrize(
    ("status", "retryable", "remedy"),
    [
        (400, False, "check the stage's model, schema, temperature and max_tokens"),
        (401, False, "it does not take the key; check OPENAI_API_KEY"),
        (404, False, "check OPENAI_BASE_URL and the model's name"),
        (429, True, "it was asked too often, or the credit is used up; ask again later"),
        (500, True, "ask again later"),
        (503, True, "ask again later"),
    ],
)
def test_an_http_error_fails_the_step_with_the_remedy(
    model: ModelServer, status: int, retryable: bool, remedy: str
) -> None:
    words = '{"error": {"message": "Incorrect API key provided: sk-secret"}}'

    told = heard(model, answers(words, status))

    assert told.error == {
        "type": "http_error",
        "message": f"the model's API answered HTTP {status}; {remedy}",
        "retryable": retryable,
    }
    assert len(model.bodies) == 1
    assert "sk-secret" not in json.dumps([told.state, told.steps], default=str)


@pytest.mark.parametrize("body", ["", "hello", "{}", "[]", '{"choices": []}', '{"choices": [{"message": null}]}'])
@pytest.mark.parametrize("text", [ONE, JSON])
def test_what_no_model_says_fails_the_step(model: ModelServer, text: str, body: str) -> None:
    told = heard(model, answers(body), text)

    assert told.error["type"] == "bad_reply"
    assert not told.state["is_complete"]


def test_a_model_that_takes_too_long_fails_the_step_in_time(model: ModelServer) -> None:
    told = heard(model, hangs, timeout=0.2)

    assert told.error == {"type": "timeout", "message": "the model did not answer within 0.2 s", "retryable": True}
    assert told.steps[0]["duration_ms"] < 5_000


def test_a_model_that_is_not_there_fails_the_step() -> None:
    told = run(ONE, "http://127.0.0.1:1/v1")

    assert told.error == {
        "type": "unreachable",
        "message": "the model's API cannot be reached; check OPENAI_BASE_URL",
        "retryable": True,
    }


@pytest.mark.parametrize("key", ["", None])
def test_without_a_key_the_step_says_how_to_configure_one(key: str | None) -> None:
    async def story() -> Any:
        graph = build_graph(parse_flow(ONE, "one.yaml", {}), model=choose_model(key))
        return await graph.ainvoke({"input_message": "A tale."}, {"configurable": {"thread_id": "RUN-1"}})

    step = asyncio.run(story())["steps"][0]

    assert step["response_data"]["error"] == {
        "type": "no_model",
        "message": "no model is configured; set OPENAI_API_KEY, and OPENAI_BASE_URL if the model is not OpenAI's "
        "(a server that wants no key takes any)",
        "retryable": False,
    }
    assert (step["agent"], step["a2a_agent_url"]) == ("model", "")


@pytest.mark.parametrize("ways", ["on_error: continue", "on_error: after\n    next: end"])
def test_a_run_may_go_on_without_the_model(model: ModelServer, ways: str) -> None:
    text = ONE + f"    {ways}\n  after: {{llm: {{prompt: And now}}}}\n"

    told = heard(model, thinks({"And now": says("sorry"), "": answers("", 500)}), text)

    assert [(step["stage"], step["response_status"]) for step in told.steps] == [
        ("reader", "error"),
        ("after", "success"),
    ]
    assert told.state["is_complete"]


def test_a_later_prompt_may_tell_of_a_failure(model: ModelServer) -> None:
    text = ONE + "    on_error: continue\n  after: {llm: {prompt: 'And now? {{ reader.error.type }}'}}\n"

    heard(model, thinks({"And now": says("sorry"), "": answers("", 500)}), text)

    assert model.prompts()[1] == "And now? http_error"


# Several at once.


def test_a_model_over_a_list(model: ModelServer) -> None:
    over = "map: {over: items, at_once: 2, llm: {prompt: '{{ index }}: {{ item }}', schema: {type: integer}}}"
    text = ONE.partition("    llm:")[0] + f"    {over}\n    on_error: continue\n"
    model.thought = thinks({"two": says('"two"'), "one": says("1"), "three": says('{"answer": 3}')})

    told = run(text, model.url, items=["one", "two", "three"])

    assert sorted(model.prompts()) == ["0: one", "1: two", "2: three"]
    assert told.steps[-1]["response_data"]["error"]["message"].startswith("1 of 3 items failed: 1; item 1: ")
    assert [(step["branch"], step["response_status"]) for step in told.steps[:-1]] == [
        ("0", "success"),
        ("1", "error"),
        ("2", "success"),
    ]


def test_models_beside_each_other_and_only_the_one_that_failed_again(model: ModelServer) -> None:
    text = (
        ONE.partition("    llm:")[0]
        + """\
    parallel:
      tone: {llm: {prompt: "Tone of {{ input_message }}"}, output: {text: tone}}
      risk: {llm: {prompt: "Risk of {{ input_message }}", schema: {type: array}}, output: {data: risks}}
  last: {llm: {prompt: "{{ tone }} {{ risks }} {{ reader.data.tone.text }}"}}
"""
    )
    of = {"Tone": says("grim"), "Risk of again": says("[]"), "Risk": answers("", 500), "grim": says("The end.")}
    model.thought = thinks(of)

    told = run(text, model.url, "all", "again")

    assert [(step["stage"], step.get("branch"), step["response_status"]) for step in told.steps] == [
        ("reader", "tone", "success"),
        ("reader", "risk", "error"),
        ("reader", None, "error"),
        ("reader", "risk", "success"),
        ("reader", None, "success"),
        ("last", None, "success"),
    ]
    assert model.prompts()[-1] == "grim [] grim"


# What goes out.

_LOOK = """
import asyncio, json, sys
from graph import build_graph
from graph.loader import parse_flow
from graph.models import choose_model

seen = []
def look(event, arguments):
    if event == "socket.connect":
        seen.append(arguments[1])
    elif event in ("socket.getaddrinfo", "socket.sendto"):
        seen.append(str(arguments))
sys.addaudithook(look)

async def story():
    model = choose_model("sk-secret", base_url=sys.argv[1])
    graph = build_graph(parse_flow(sys.argv[2], "one.yaml", {}), model=model)
    state = await graph.ainvoke({"input_message": "A tale."}, {"configurable": {"thread_id": "RUN-1"}})
    await model.aclose()
    return state["steps"][0]["response_status"]

print(json.dumps([asyncio.run(story()), [str(where) for where in seen]]))
"""


def test_nothing_goes_anywhere_but_to_the_model(model: ModelServer) -> None:
    model.thought = says('{"topic": "tales"}')
    env = {name: value for name, value in os.environ.items() if not name.startswith(("LANG", "OPENAI"))}

    done = subprocess.run(
        [sys.executable, "-c", _LOOK, model.url, JSON], env=env, capture_output=True, text=True, timeout=60
    )

    assert done.returncode == 0, done.stderr
    status, seen = json.loads(done.stdout)
    port = model.url.removesuffix("/v1").rpartition(":")[2]
    assert status == "success"
    assert len(model.bodies) == 1
    assert [where for where in seen if "127.0.0.1" not in where or port not in where] == []
