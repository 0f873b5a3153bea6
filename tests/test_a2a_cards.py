"""A flow shows itself as an agent: each version of A2A gets a clean card, at the address that the client used."""

from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import Any
from urllib.parse import urljoin

import httpx
import pytest
from a2a.compat.v0_3.types import AgentCard as AgentCard03
from a2a.types import AgentCard
from google.protobuf.json_format import ParseDict
from starlette.applications import Starlette

from graph.flow import Flow
from graph.loader import load_flow
from nodes.spec import Agent, Stage
from server.a2a.cards import FLOW_EXTENSION, Cards, as_1_0, card_of
from server.a2a.discovery import card_routes
from server.listening import listen, serving, url_of
from tests.background import Background
from tests.conftest import StartService

CARD = "/.well-known/agent-card.json"
LEGACY = {
    "url",
    "preferredTransport",
    "protocolVersion",
    "additionalInterfaces",
    "security",
    "stateTransitionHistory",
}
REQUIRED = {
    "name",
    "description",
    "version",
    "capabilities",
    "skills",
    "supportedInterfaces",
    "defaultInputModes",
    "defaultOutputModes",
}


@pytest.fixture(scope="module")
def flow() -> Flow:
    return load_flow("call")


@pytest.fixture(scope="module")
def site(background: Background, flow: Flow) -> Iterator[str]:
    """The cards of the call flow at the root and below its own path; below /old and /known, configured otherwise."""
    routes = [
        *card_routes(Cards(flow, "1.2.3"), ""),
        *card_routes(Cards(flow, "1.2.3"), "/a2a/call"),
        *card_routes(Cards(flow, "1.2.3", default_version="0.3"), "/old"),
        *card_routes(Cards(flow, "1.2.3", public_url="https://flows.example/desk/"), "/known"),
    ]
    stack = AsyncExitStack()

    async def enter() -> str:
        listener = stack.enter_context(listen("the cards", "127.0.0.1", 0))
        await stack.enter_async_context(serving(Starlette(routes=routes), listener, grace=1))
        return url_of(listener)

    yield background.run(enter())
    background.run(stack.aclose())


def is_1_0(card: dict[str, Any]) -> bool:
    """Check that the card is one of 1.0 and nothing else."""
    ParseDict(card, AgentCard())  # refuses what 1.0 does not know
    assert not LEGACY & set(card)
    assert set(card) >= REQUIRED
    assert all(card[name] for name in REQUIRED)
    return True


def is_0_3(card: dict[str, Any]) -> bool:
    """Check that the card is one of 0.3 and nothing else."""
    AgentCard03.model_validate(card)
    assert card["protocolVersion"] == "0.3.0"
    assert card["preferredTransport"] == "JSONRPC"
    assert "supportedInterfaces" not in card
    assert "supportsAuthenticatedExtendedCard" not in card
    return True


def test_the_card_of_the_call_flow(site: str) -> None:
    card = httpx.get(site + CARD).json()

    assert is_1_0(card)
    assert card["supportedInterfaces"] == [
        {"url": f"{site}/a2a/call", "protocolBinding": "JSONRPC", "protocolVersion": "1.0"}
    ]
    assert card["version"] == "1.2.3"
    assert card["capabilities"] == {"streaming": True, "pushNotifications": True, "extendedAgentCard": True}
    assert card["provider"] == {"organization": "Orchestrator Flows", "url": site}
    assert card["documentationUrl"] == f"{site}/docs"


def test_one_skill_for_each_intent(flow: Flow) -> None:
    skills = {skill["id"]: skill for skill in as_1_0(card_of(flow, "http://here", version="1"))["skills"]}

    assert skills.keys() == {intent for stage in flow.stages.values() for intent in stage.intents}
    assert skills["process_refund"] == {
        "id": "process_refund",
        "name": "process refund",
        "description": "At the stage fulfillment: What the customer wants is done.",
        "tags": ["fulfillment", "refund"],
        "examples": ["money back"],
    }
    examples = [example for skill in skills.values() for example in skill["examples"]]
    assert not [example for example in examples if "*" in example or "#" in example or example == "yes"]


def test_a_flow_without_intents_is_one_skill() -> None:
    desk = Agent(url="http://secret-host:9/x")
    relay = Flow(flow="relay", agents={"far": desk}, stages={"relay": Stage(agent="far", about="Handed on.")})

    [skill] = as_1_0(card_of(relay, "http://here", version="1"))["skills"]

    assert skill == {"id": "relay", "name": "relay", "description": "Handed on.", "tags": ["relay", "far"]}


def test_an_intent_of_two_stages_is_one_skill() -> None:
    stages = {"first": Stage(intents={"help": "a"}), "second": Stage(intents={"help": "b"})}
    agents = {"a": Agent(url="http://a"), "b": Agent(url="http://b")}

    [skill] = as_1_0(card_of(Flow(flow="two", agents=agents, stages=stages), "http://here", version="1"))["skills"]

    assert skill["tags"] == ["first", "second", "a", "b"]


def test_the_extended_card_shows_the_flow_but_no_address_of_an_agent(flow: Flow) -> None:
    card = as_1_0(Cards(flow, "1").extended("http://here"))

    [extension] = card["capabilities"]["extensions"]
    assert extension["uri"] == FLOW_EXTENSION
    assert extension["params"]["digest"] == flow.digest
    assert [stage["name"] for stage in extension["params"]["stages"]] == list(flow.stages)
    assert extension["params"]["stages"][3]["intents"]["process_refund"] == "refund"
    assert not [agent.url for agent in flow.agents.values() if str(agent.url) in str(card)]
    assert is_1_0(card)


def test_http_json_is_declared_only_where_it_is_offered(flow: Flow) -> None:
    offered = Cards(flow, "1", rest=True)

    assert [each["protocolBinding"] for each in offered.document("http://here", "1.0")["supportedInterfaces"]] == [
        "JSONRPC",
        "HTTP+JSON",
    ]
    assert is_0_3(offered.document("http://here", "0.3"))


@pytest.mark.parametrize("below", ["", "/a2a/call"])
@pytest.mark.parametrize("path", ["/v0.3/.well-known/agent-card.json", "/.well-known/agent.json"])
def test_where_clients_of_0_3_look_is_a_card_of_0_3(site: str, below: str, path: str) -> None:
    card = httpx.get(site + below + path).json()

    assert is_0_3(card)
    assert card["url"] == f"{site}/a2a/call"


def test_the_card_is_where_clients_look_that_were_given_an_address_of_the_flow(start: StartService) -> None:
    http = start(checkpointer="memory").http
    card = http.get(CARD).json()

    for base in ("/a2a/call", "/a2a/call/", "/a2a/call/v0.3", "/a2a/call/rest", "/a2a/call/rest/", "/rest", "/"):
        beside, below = urljoin(base, f".{CARD}"), f"{base.rstrip('/')}{CARD}"
        assert {http.get(at, headers={"A2A-Version": "1.0"}).status_code for at in (beside, below)} == {200}, base
    assert http.get("/a2a/.well-known/agent-card.json").json() == card
    assert http.get("/a2a/call/rest/.well-known/agent-card.json").json() == card


def test_who_asks_for_another_flow_learns_which_is_served(start: StartService) -> None:
    http = start(checkpointer="memory", flows=None).http

    for answer in (http.post("/a2a/nobody", json={}), http.get("/a2a/nobody"), http.get(f"/a2a/nobody{CARD}")):
        assert (answer.status_code, answer.json()["type"]) == (404, "flow-not-found")
        assert answer.json()["detail"].startswith("there is no flow 'nobody'; those served are call, ")
    assert http.get("/a2a/call").status_code == 405
    assert http.get("/a2a/call/nowhere").json()["type"] == "not-found"


def test_a_client_says_which_card_it_wants(site: str) -> None:
    for asked in ({"headers": {"A2A-Version": "0.3"}}, {"params": {"A2A-Version": "0.3"}}):
        assert is_0_3(httpx.get(site + CARD, **asked).json())  # type: ignore[arg-type]
        assert is_0_3(httpx.get(site + "/old" + CARD).json())
    assert is_1_0(httpx.get(site + "/old" + CARD, headers={"A2A-Version": "1.0.3"}).json())


def test_who_speaks_no_version_of_ours_learns_which_there_are(site: str) -> None:
    assert is_1_0(httpx.get(site + CARD, headers={"A2A-Version": "99"}).json())


def test_a_card_that_is_known_is_not_sent_again(site: str) -> None:
    first = httpx.get(site + CARD)
    tag = first.headers["etag"]

    for known in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        again = httpx.get(site + CARD, headers={"If-None-Match": known})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    assert httpx.get(site + CARD, headers={"If-None-Match": '"other"'}).status_code == 200
    assert "max-age=" in first.headers["cache-control"]
    assert first.headers["last-modified"].endswith("GMT")
    assert first.headers["vary"] == "A2A-Version, Host"
    assert httpx.get(site + CARD, headers={"A2A-Version": "0.3"}).headers["etag"] != tag


def test_head_answers_like_get_without_the_card(site: str) -> None:
    head, get = httpx.head(site + CARD), httpx.get(site + CARD)

    assert (head.status_code, head.content) == (200, b"")
    assert {head.headers[name] == get.headers[name] for name in ("etag", "content-type", "content-length")} == {True}


def test_the_address_is_the_one_the_client_used(site: str) -> None:
    card = httpx.get(site + CARD, headers={"Host": "desk.example:8443"}).json()

    assert card["supportedInterfaces"][0]["url"] == "http://desk.example:8443/a2a/call"


@pytest.mark.parametrize("host", ["evil.example/path", "a b", 'x"y', "user@host", "h:port", "<h>", ""])
def test_a_host_with_odd_characters_is_not_repeated(site: str, host: str) -> None:
    card = httpx.get(site + CARD, headers={"Host": host}).json()

    assert card["supportedInterfaces"][0]["url"] == f"{site}/a2a/call"


def test_the_address_is_the_configured_one_if_there_is_one(site: str) -> None:
    card = httpx.get(site + "/known" + CARD, headers={"Host": "elsewhere"}).json()

    assert card["supportedInterfaces"][0]["url"] == "https://flows.example/desk/a2a/call"
    assert card["documentationUrl"] == "https://flows.example/desk/docs"
