"""What an agent sends reaches the A2A client as it was sent, and what the client sends reaches the agent, whichever
versions the two of them speak."""

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any, Literal

import pytest

from nodes.remote.dialect import Dialect
from tests.a2a_client import Client, answer_of, opened, part_03, state_of, words_of
from tests.background import Background
from tests.conftest import StartService
from tests.polite_agents import PoliteAgent, polite_agent
from tests.rough_agents import answers_rpc, card, rough_agent, says

Json = dict[str, Any]
Version = Literal["1.0", "0.3"]
Serve = Callable[[AbstractAsyncContextManager[Any]], Any]

PARTS: list[Json] = [
    {"text": "first line", "metadata": {"language": "en"}},
    {"data": {"amount": "1.10"}},
    {"raw": "UERG", "mediaType": "application/pdf", "filename": "bill.pdf"},
    {"url": "https://files.example/terms", "mediaType": "text/html", "filename": "terms"},
    {"text": "second line"},
]
PAPERS = {
    "name": "the papers",
    "description": "What the agent has.",
    "metadata": {"from": "the archive"},
    "extensions": ["https://example.org/papers"],
}


@pytest.fixture(params=["1.0", "0.3"])
def version(request: pytest.FixtureRequest) -> Version:
    """Of the client."""
    chosen: Version = request.param
    return chosen


@pytest.fixture
def serve(background: Background) -> Iterator[Serve]:
    """Serve an agent until the end of the test."""
    stack = AsyncExitStack()
    yield lambda agent: background.run(stack.enter_async_context(agent))
    background.run(stack.aclose())


@pytest.fixture(params=["1.0", "0.3"])
def agent(request: pytest.FixtureRequest, serve: Serve) -> PoliteAgent:
    """An agent of each version."""
    dialect: Dialect = request.param
    served: PoliteAgent = serve(polite_agent(dialect))
    return served


@pytest.fixture
def relayed(start: StartService, version: Version) -> Callable[[str], Client]:
    """Put the relay before an agent's address, and return a client of it."""

    def relay(url: str) -> Client:
        service = start(env={"RELAY_AGENT_URL": url}, flow="relay", checkpointer="memory")
        return Client(service.http, version, "/a2a/relay")

    return relay


def seen_by(client: Client, parts: list[Json]) -> list[Json]:
    """Return the parts as the client's version writes them."""
    return [part_03(part) if client.version == "0.3" else part for part in parts]


def test_artifacts(agent: PoliteAgent, relayed: Callable[[str], Client]) -> None:
    client = relayed(agent.url)

    task = client.send("deliver")

    papers, rest = task["artifacts"]
    assert papers == {"artifactId": "1-p", **PAPERS, "parts": seen_by(client, PARTS)}
    assert (rest["name"], words_of(rest)) == ("the rest", "a second artifact")
    assert (state_of(task), answer_of(task)) == ("completed", "That is all.")
    assert client.get(task["id"])["artifacts"] == task["artifacts"]


@pytest.mark.parametrize("words", ["show", "deliver"])
def test_artifacts_in_a_stream(agent: PoliteAgent, relayed: Callable[[str], Client], words: str) -> None:
    client = relayed(agent.url)

    events = [opened(event) for event in client.stream(words)]

    artifacts = [event["artifact"] for kind, event in events if kind == "artifact-update"]
    assert artifacts[0] == {"artifactId": "1-p", **PAPERS, "parts": seen_by(client, PARTS)}
    assert artifacts == client.get(events[0][1]["id"])["artifacts"]
    assert (events[-1][0], state_of(events[-1][1])) == ("status-update", "completed")


def test_a_message(agent: PoliteAgent, relayed: Callable[[str], Client]) -> None:
    client = relayed(agent.url)

    kind, said = opened(client.call("SendMessage", client.params("speak")))

    plain = [{key: part[key] for key in part if key != "metadata"} for part in PARTS]
    assert (kind, said["parts"]) == ("message", seen_by(client, plain))


@pytest.mark.parametrize(("words", "state"), [("ask", "input-required"), ("sign in", "auth-required")])
def test_what_an_agent_waits_for(
    agent: PoliteAgent, relayed: Callable[[str], Client], words: str, state: str
) -> None:
    client = relayed(agent.url)

    asked = client.send(words)
    answered = client.send("here you are", task=asked["id"])

    assert (state_of(asked), answer_of(asked)) == (state, f"I {words}")
    assert (answered["id"], state_of(answered), answer_of(answered)) == (asked["id"], "completed", "thank you")


def test_what_the_caller_sends(agent: PoliteAgent, relayed: Callable[[str], Client]) -> None:
    parts = [
        {"text": "second"},
        {"data": {"deep": [1, {"pi": 3.14, "no": None}], "intent": "greeting"}, "metadata": {"of": "data"}},
        {"raw": "AP8=", "mediaType": "image/png", "filename": "ä.png"},
        {"url": "https://files.example/x?y=1&z=%20"},
        {"text": "", "metadata": {"empty": True}},
    ]

    client = relayed(agent.url)
    client.send("speak", parts=parts)

    assert agent.parts == [[{"text": "speak"}, *parts]]


def nested(levels: int) -> list[Any]:
    data: list[Any] = []
    for _ in range(levels):
        data = [data]
    return data


def as_json(part: Json) -> Json:
    return {"text": json.dumps(part, separators=(",", ":")), "mediaType": "application/json"}


TOO_DEEP: Json = {"data": nested(60)}
NO_BASE64: Json = {"raw": "hello world!", "mediaType": "x/y"}
LOST_DIGITS = 2**53


@pytest.mark.parametrize(
    ("sent", "seen"),
    [
        ({"text": ""}, {"text": ""}),
        ({"text": "a\x00b\u2028c\u0085d📞"}, {"text": "a\x00b\u2028c\u0085d📞"}),
        ({"text": "# hi", "mediaType": "text/markdown"}, {"text": "# hi", "mediaType": "text/markdown"}),
        ({"raw": ""}, {"raw": ""}),
        ({"raw": "VUVS\r\nRw"}, {"raw": "VUVSRw=="}),
        ({"raw": "_-_-"}, {"raw": "/+/+"}),
        (NO_BASE64, as_json(NO_BASE64)),
        ({"data": None}, {"data": None}),
        ({"data": [1, "x", {}]}, {"data": [1, "x", {}]}),
        ({"data": {"n": LOST_DIGITS + 1, "e": 1e300}}, {"data": {"n": LOST_DIGITS, "e": 1e300}}),
        ({"data": nested(30)}, {"data": nested(30)}),
        (TOO_DEEP, as_json(TOO_DEEP)),
        ({"text": "a", "metadata": {"of": nested(60)}}, as_json({"text": "a", "metadata": {"of": nested(60)}})),
        ({"video": {"uri": "x"}}, {"data": {"video": {"uri": "x"}}}),
        ({}, {"data": {}}),
    ],
    ids=lambda part: repr(part)[:40],
)
def test_odd_parts_of_an_agent(serve: Serve, start: StartService, sent: Json, seen: Json) -> None:
    artifact = {"artifactId": "a", "parts": [{"text": "before"}, sent]}
    status = {"state": "TASK_STATE_COMPLETED"}
    result = {"task": {"id": "t", "contextId": "c", "status": status, "artifacts": [artifact]}}
    odd = serve(rough_agent(answers_rpc(result=result), card(version="1.0")))
    service = start(env={"RELAY_AGENT_URL": odd.url}, flow="relay", checkpointer="memory")
    client = Client(service.http, "1.0", "/a2a/relay")

    task = client.send("hi")
    events = [opened(event) for event in client.stream("hi")]
    old = Client(service.http, "0.3", "/a2a/relay").get(task["id"])

    assert task["artifacts"] == [{"artifactId": "1-a", "parts": [{"text": "before"}, seen]}]
    assert client.get(task["id"])["artifacts"] == task["artifacts"]
    assert [body["artifact"] for kind, body in events if kind == "artifact-update"] == task["artifacts"]
    assert old["artifacts"][0]["parts"][1] == odd_03(seen)


def odd_03(part: Json) -> Json:
    """Return how a 0.3 client sees the part: data that is no object is wrapped, a text has no media type."""
    if "data" in part and not isinstance(part["data"], dict):
        return {"kind": "data", "data": {"value": part["data"]}, "metadata": {"data_part_compat": True}}
    return part_03(part)


@pytest.mark.parametrize("part", [{"kind": "video", "uri": "x"}, {"kind": "file", "file": {}}, {"kind": "text"}])
def test_parts_of_unknown_kinds_come_as_data(serve: Serve, start: StartService, part: Json) -> None:
    said = {"kind": "message", "messageId": "m", "role": "agent", "parts": [part]}
    odd = serve(rough_agent(answers_rpc(result=said)))
    service = start(env={"RELAY_AGENT_URL": odd.url}, flow="relay", checkpointer="memory")

    assert Client(service.http, "1.0", "/a2a/relay").send("hi")["parts"] == [{"data": part}]


def test_metadata_that_is_nested_too_deeply_comes_as_text(serve: Serve, relayed: Callable[[str], Client]) -> None:
    metadata = {"deep": nested(60)}
    artifact = {"artifactId": "a", "parts": [{"text": "x"}], "metadata": metadata}
    result = {"kind": "task", "id": "t", "status": {"state": "completed"}, "artifacts": [artifact]}
    odd = serve(rough_agent(answers_rpc(result=result)))

    task = relayed(odd.url).send("hi")

    assert json.loads(task["artifacts"][0]["metadata"]["json"]) == metadata


def test_whole_numbers_reach_the_client_as_they_were_sent(serve: Serve, relayed: Callable[[str], Client]) -> None:
    data = {"count": 42, "deep": [{"half": 0.5, "zero": 0}]}
    artifact = {"artifactId": "a", "parts": [{"kind": "data", "data": data}]}
    result = {"kind": "task", "id": "t", "status": {"state": "completed"}, "artifacts": [artifact]}
    odd = serve(rough_agent(answers_rpc(result=result)))
    client = relayed(odd.url)

    task = client.send("hi")
    streamed = [opened(event)[1] for event in client.stream("hi")]

    (chunk,) = [body["artifact"] for body in streamed if "artifact" in body]
    for shown in (task["artifacts"][0], client.get(task["id"])["artifacts"][0], chunk):
        assert json.dumps(shown["parts"][0]["data"], sort_keys=True) == json.dumps(data, sort_keys=True)


def test_line_ends_of_unicode_stay_within_their_event(serve: Serve, relayed: Callable[[str], Client]) -> None:
    words = "one\u2028two\u2029three\u0085four"
    odd = serve(rough_agent(says(words)))

    told = [opened(event)[1] for event in relayed(odd.url).stream(words)]  # read by lines, as httpx ends them

    assert words_of(told[0]["history"][0]) == words
    assert words in [answer_of(body) for body in told if "status" in body]


def test_whole_numbers_reach_the_agent_as_they_were_sent(serve: Serve, relayed: Callable[[str], Client]) -> None:
    odd = serve(rough_agent(says("ok"), card(version="1.0")))
    told = {"count": 42, "deep": [{"half": 0.5, "zero": 0}]}

    relayed(odd.url).send("hi", parts=[{"data": told}], metadata=told)

    message = odd.messages[0].rpc["params"]["message"]
    metadata = {key: message["metadata"][key] for key in told}
    for heard in (message["parts"][1]["data"], metadata):
        assert json.dumps(heard, sort_keys=True) == json.dumps(told, sort_keys=True)
