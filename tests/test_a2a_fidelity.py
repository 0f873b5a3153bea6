"""What an agent sends reaches the A2A client as it was sent, and what the client sends reaches the agent, whichever
versions the two of them speak."""

from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any, Literal

import pytest

from nodes.remote.dialect import Dialect
from tests.a2a_client import Client, answer_of, opened, part_03, state_of, words_of
from tests.background import Background
from tests.conftest import StartService
from tests.polite_agents import PoliteAgent, polite_agent
from tests.rough_agents import answers_rpc, card, rough_agent

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
