"""Registrations, cards, heartbeats and weights that cannot be: clear errors that say what to do, bounded memory."""

import json
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from nodes.reaching.records import Registered
from server.agents import MOST_REGISTERED
from server.listening import listen, serving, url_of
from server.settings import Settings
from tests.background import Background
from tests.conftest import Service, StartService
from tests.test_bad_input import refused

TOKEN = "a-token-of-24-characters"
GOOD = {"name": "refund-1", "agent_type": "refund", "capabilities": [], "url": "http://127.0.0.1:9"}
BY_JO = {"by": "jo", "why": "a try"}
FLOW = """
flow: desk
waits_for: caller
agents:
  plain: {url: "http://127.0.0.1:9"}
  payer: {versions: {v1: {url: "http://127.0.0.1:10"}, v2: {url: "http://127.0.0.1:11"}}}
stages:
  ask: {intents: {ask: plain, pay: payer}}
fallback: plain
"""
CARD: dict[str, Any] = {
    "name": "Text Processor",
    "description": "It reads.",
    "version": "2.1",
    "protocolVersion": "0.3.0",
    "preferredTransport": "JSONRPC",
    "capabilities": {},
    "defaultInputModes": ["text/plain"],
    "defaultOutputModes": ["text/plain"],
    "skills": [{"id": "read", "name": "read", "description": "It reads.", "tags": []}],
}
WELL_KNOWN = "/.well-known/agent-card.json"


@pytest.fixture(scope="module")
def flow(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("flows") / "desk.yaml"
    file.write_text(FLOW)
    return str(file)


@pytest.fixture(scope="module")
def service(start_for_module: StartService, flow: str) -> Service:
    """A service that nobody but this machine can reach."""
    return start_for_module(checkpointer="memory", flow=flow)


@pytest.fixture(scope="module")
def public(start_for_module: StartService, flow: str) -> Service:
    """A service that others can reach, where agents may be in 10.1.0.0/16."""
    allowed = {"agents_allow": "10.1.0.0/16", "admin_token": TOKEN, "public_url": "https://flows.example"}
    service = start_for_module(checkpointer="memory", flow=flow, **allowed)
    service.http.headers["authorization"] = f"Bearer {TOKEN}"
    return service


@pytest.fixture(scope="module")
def shelf(background: Background) -> Iterator[str]:
    """Where cards lie, each below a name that says what is wrong with it."""
    stack = AsyncExitStack()

    async def enter() -> str:
        listener = stack.enter_context(listen("the shelf", "127.0.0.1", 0))
        route = Route(f"/{{which}}{WELL_KNOWN}", _card)
        await stack.enter_async_context(serving(Starlette(routes=[route]), listener, grace=1))
        return url_of(listener)

    yield background.run(enter())
    background.run(stack.aclose())


def _card(request: Request) -> Response:
    which, base = request.path_params["which"], str(request.base_url)
    card = {**CARD, "url": f"{base}{which}"}
    skill = CARD["skills"][0]
    odd: dict[str, dict[str, Any]] = {
        "elsewhere": {"url": "http://elsewhere.example/rpc"},
        "nowhere": {"url": ""},
        "grpc": {"preferredTransport": "GRPC"},
        "nameless": {"name": "文"},
        "namesake": {"name": "Namesake"},
        "twin": {"name": "Namesake"},
        "long": {"name": "x" * 10_000},
        "version": {"version": "1 or 2"},
        "wordy": {"skills": [{**skill, "id": "x" * 200, "inputModes": ["text/plain" * 100]}] * 20},
        "skilled": {"skills": [{**skill, "id": f"skill-{number}"} for number in range(101)]},
    }
    if which == "huge":
        return StreamingResponse(_endless(), media_type="application/json")
    if which == "elsewhere-by-redirect":
        return RedirectResponse("http://169.254.169.254/latest/meta-data")
    if which in ("gone", "text", "list", "deep"):
        content = {"text": "no card", "list": "[1]", "deep": '{"a":' * 5_000 + "1" + "}" * 5_000}
        return Response(content.get(which, ""), 404 if which == "gone" else 200)
    return Response(json.dumps({**card, **odd.get(which, {})}), media_type="application/json")


async def _endless() -> AsyncIterator[bytes]:
    yield b'{"name": "'
    for _ in range(500):
        yield b"x" * 100_000  # 50 MB in all


def register(service: Service, **changes: Any) -> httpx.Response:
    sent = {key: value for key, value in {**GOOD, **changes}.items() if value is not ...}
    return service.http.post("/agents/register", json=sent)


def complaint(answer: httpx.Response) -> tuple[str, str]:
    """Check that one field is refused; return it, and what is said of it."""
    (error,) = refused(answer, 422, "bad-input")["errors"]
    return error["field"], error["message"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("name", ""), ("name", "a b"), ("name", "a.b"), ("name", "x" * 65), ("name", "1a"), ("name", ...)),
        *(("agent_type", "a/b"), ("agent_type", None), ("version", "v 1"), ("version", "")),
        *(("ttl_seconds", 4), ("ttl_seconds", 86_401), ("ttl_seconds", "60"), ("ttl_seconds", -1)),
        *(("url", ...), ("url", ""), ("url", 7), ("url", "http://h/" + "x" * 2_000)),
        *(("capabilities", [{"name": f"c{number}"} for number in range(101)]), ("capabilities", "read")),
        *(("capabilities.0.name", [{"name": ""}]), ("capabilities.0.kind", [{"name": "a", "kind": 1}])),
        *(("capabilities.0.input_types", [{"name": "a", "input_types": ["t"] * 21}]), ("unheard_of", 1)),
        ("capabilities", [{"name": "a", "input_types": ["t" * 16_000]}]),
    ],
)
def test_a_registration_that_cannot_be(service: Service, field: str, value: Any) -> None:
    answer = register(service, **{field.partition(".")[0]: value})

    assert complaint(answer)[0] == field


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("file:///etc/passwd", "only http and https"),
        ("ftp://127.0.0.1/", "only http and https"),
        ("javascript:alert(1)", "only http and https"),
        ("refund:8003", "write it as http://refund:8003"),
        ("//refund:8003", "only http and https"),
        ("http://", "names no host"),
        ("http://refund:0", "no port that can be reached"),
        ("http://refund:99999", "no URL"),
        ("http://[::1", "no URL"),
        ("http://jo:secret@127.0.0.1:9", "credentials"),
        ("http://127.0.0.1:9?a=b", "a ? or a #"),
        ("http://127.0.0.1:9/a b", "a space"),
        ("http://2130706433/", "usual form"),
    ],
)
def test_an_address_that_is_none_or_holds_what_it_must_not(service: Service, url: str, says: str) -> None:
    for sent in ({"url": url}, {"card_url": url, **dict.fromkeys(GOOD, ...)}):
        answer = register(service, **sent)
        field, message = complaint(answer)
        assert (field, says in message) == (next(iter(sent)), True), message
        assert "secret" not in answer.text


@pytest.mark.parametrize(
    "url",
    [
        *("http://127.0.0.1:9", "http://localhost:9", "http://a.localhost", "http://[::1]:9", "http://0.0.0.0:9"),
        *("http://10.0.0.1", "http://192.168.1.1", "http://172.16.0.1", "http://169.254.169.254/latest"),
        *("http://[fd00::1]", "http://[fe80::1]", "http://[::ffff:10.0.0.1]", "http://100.64.0.1"),
    ],
)
def test_an_address_inside_our_network_on_a_service_that_others_reach(public: Service, url: str) -> None:
    for sent in ({"url": url}, {"card_url": f"{url}{WELL_KNOWN}", **dict.fromkeys(GOOD, ...)}):
        field, message = complaint(register(public, **sent))
        assert field == next(iter(sent))
        assert message.endswith("is not public; only the service's FLOWS_AGENTS_ALLOW can allow it")


def test_what_is_allowed_may_register_and_a_host_that_is_not_found_may_not(public: Service, service: Service) -> None:
    assert register(public, url="http://10.1.2.3:8003").status_code == 201
    assert register(public, url="http://1.1.1.1:8003").status_code == 201
    assert register(service, url="http://not-found.invalid").status_code == 201  # its network is that of this machine
    assert complaint(register(public, url="http://not-found.invalid")) == (
        "url",
        "the host 'not-found.invalid' cannot be found; register the agent when it can be",
    )


@pytest.mark.parametrize("entry", ["10.0.0.1/8", "a b", "*"])
def test_a_setting_that_names_no_network(entry: str) -> None:
    with pytest.raises(ValueError, match="FLOWS_AGENTS_ALLOW"):
        Settings(agents_allow=entry)


@pytest.mark.parametrize(
    ("which", "says"),
    [
        ("elsewhere", "answers at another host than its own"),
        ("nowhere", "no agent card with a JSON-RPC interface|answers at another host"),
        ("grpc", "no agent card with a JSON-RPC interface"),
        ("gone", "HTTP 404"),
        ("elsewhere-by-redirect", "HTTP 307"),
        ("text", "is not JSON"),
        ("list", "is a JSON object"),
        ("deep", "is not JSON|no agent card"),
        ("nameless", "send `name` with the `card_url`"),
        ("version", "version: String should match pattern"),
        ("wordy", "longer than 16,000 bytes"),
        ("skilled", "capabilities: List should have at most 100 items"),
    ],
)
def test_a_card_that_cannot_be_registered(service: Service, shelf: str, which: str, says: str) -> None:
    answer = service.http.post("/agents/register", json={"card_url": f"{shelf}/{which}{WELL_KNOWN}"})

    field, message = complaint(answer)
    assert field == "card_url"
    assert any(one in message for one in says.split("|")), message


def test_a_card_that_is_odd_but_good(service: Service, shelf: str) -> None:
    good = service.http.post("/agents/register", json={"card_url": f"{shelf}/good{WELL_KNOWN}"})
    long = service.http.post("/agents/register", json={"card_url": f"{shelf}/long{WELL_KNOWN}"})

    assert (good.status_code, good.json()["name"], good.json()["url"]) == (201, "Text-Processor", f"{shelf}/good")
    assert (good.json()["version"], good.json()["dialect"]) == ("2.1", "0.3")
    assert (long.status_code, long.json()["name"]) == (201, "x" * 64)


def test_a_card_of_50_megabytes_is_not_read(service: Service, shelf: str) -> None:
    tracemalloc.start()
    answer = service.http.post("/agents/register", json={"card_url": f"{shelf}/huge{WELL_KNOWN}"})
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert complaint(answer) == ("card_url", "the card is longer than 1,000,000 bytes; make it shorter")
    assert most < 10_000_000


def test_a_card_url_that_is_not_one_or_comes_with_what_the_card_says(service: Service, shelf: str) -> None:
    def sent(**more: Any) -> tuple[str, str]:
        return complaint(service.http.post("/agents/register", json=more))

    assert "lies at /.well-known/agent-card.json" in sent(card_url=f"{shelf}/good")[1]
    assert sent(card_url=f"{shelf}/good{WELL_KNOWN}", url="http://127.0.0.1:9")[0] == "url"
    assert "cannot be had (ClientConnectorError)" in sent(card_url=f"http://127.0.0.1:9{WELL_KNOWN}")[1]


def test_a_card_does_not_take_the_place_of_another_instance(service: Service, shelf: str) -> None:
    one, other = ({"card_url": f"{shelf}/{which}{WELL_KNOWN}"} for which in ("namesake", "twin"))
    first = service.http.post("/agents/register", json=one)
    again = service.http.post("/agents/register", json=one)
    field, why = complaint(service.http.post("/agents/register", json=other))
    named = service.http.post("/agents/register", json={**other, "name": "Namesake"})

    assert (first.status_code, again.status_code, again.json()["name"]) == (201, 201, "Namesake")
    taken = f"its card names it 'Namesake', and the one at {shelf}/namesake is registered by that name"
    assert (field, why) == ("name", f"{taken}; name it with `name`: otherwise, or the same to take that one's place")
    assert (named.status_code, named.json()["url"]) == (201, f"{shelf}/twin")


@pytest.mark.parametrize("url", ["127.0.0.1:8005", "localhost:8005/a", "refund-agent", "[::1]:8005"])
def test_an_address_that_does_not_say_how_it_is_reached(service: Service, url: str) -> None:
    why = f"it does not say how it is reached; write it as http://{url}"
    assert complaint(register(service, url=url)) == ("url", why)


def test_no_more_than_a_thousand_register(start: StartService, background: Background, flow: str) -> None:
    service = start(checkpointer="memory", flow=flow)
    one = Registered("a", "crowd", "http://127.0.0.1:9", None, (), None, "now", None, False, None)

    async def crowd() -> None:
        for number in range(MOST_REGISTERED):
            await service.runtime.agents.registry.register(replace(one, name=f"a{number}"), 600, MOST_REGISTERED)

    background.run(crowd())
    answers = [register(service, name=f"b{number}") for number in range(20)]
    again = register(service, name="a1")
    view = service.http.get("/agents/crowd").json()

    for answer in answers:
        problem = refused(answer, 409, "registry-full")
        assert problem["detail"] == "1,000 agents are registered already, which is the most; take some away first"
    assert again.status_code == 201
    assert len(view["endpoints"]) == 1  # all of them say the same address


@pytest.mark.parametrize("path", ["/agents/nobody/heartbeat", "/agents/plain/heartbeat"])
def test_a_heartbeat_of_an_agent_that_is_not_registered(service: Service, path: str) -> None:
    problem = refused(service.http.post(path), 404, "agent-not-found")

    assert problem["detail"] == f"no agent {path.split('/')[2]!r} is registered, or not any more; register it again"


def test_an_agent_that_stands_in_a_flow_cannot_be_taken_away(service: Service) -> None:
    problem = refused(service.http.delete("/agents/plain"), 409, "agent-in-flow")

    assert problem["detail"].startswith("agent 'plain' stands in flow 'desk'; take it out of there, or switch it off")
    refused(service.http.delete("/agents/nobody"), 404, "agent-not-found")


@pytest.mark.parametrize(
    "weights",
    [
        *({}, {"v1": 0, "v2": 0}, {"v1": -1}, {"v1": "1"}, {"v1": None}, {"v1": True}, {"v1": 10**7}, {"a b": 1}),
        *("v1", [1], {f"v{number}": 1 for number in range(21)}, {"v1": 1, "v9": 1}),
    ],
)
def test_weights_that_cannot_be(service: Service, weights: Any) -> None:
    answer = service.http.put("/agents/payer/weights", json={"weights": weights, **BY_JO})

    assert complaint(answer)[0].partition(".")[0] == "weights"


@pytest.mark.parametrize("weight", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_weights_that_are_not_finite(service: Service, weight: str) -> None:
    body = f'{{"weights": {{"v1": {weight}}}, "by": "jo", "why": "a try"}}'
    answer = service.http.put("/agents/payer/weights", content=body, headers={"content-type": "application/json"})

    assert complaint(answer)[0].partition(".")[0] == "weights"


def test_weights_of_versions_or_agents_that_do_not_exist(service: Service) -> None:
    unknown = service.http.put("/agents/payer/weights", json={"weights": {"v3": 1}, **BY_JO})
    none = service.http.put("/agents/plain/weights", json={"weights": {"v1": 1}, **BY_JO})
    nobody = service.http.put("/agents/nobody/weights", json={"weights": {"v1": 1}, **BY_JO})

    assert complaint(unknown) == ("weights", "agent 'payer' has no version 'v3'; its versions are v1, v2")
    assert complaint(none)[1].startswith("agent 'plain' has no version 'v1'; it has no versions")
    refused(nobody, 404, "agent-not-found")


def test_switching_what_cannot_be_switched(service: Service) -> None:
    register(service, name="plain-7", agent_type="plain")
    said = {"by": "jo", "reason": "a try"}

    nobody = refused(service.http.post("/agents/nobody/off", json=said), 404, "agent-not-found")
    instance = refused(service.http.post("/agents/plain-7/off", json=said), 404, "agent-not-found")
    blank = complaint(service.http.post("/agents/plain/off", json={"by": " ", "reason": "x"}))
    silent = refused(service.http.post("/agents/plain/off", json={}), 422, "bad-input")
    long = complaint(service.http.post("/agents/plain/off", json={"by": "jo", "reason": "x" * 2_001}))

    assert nobody["detail"].startswith("there is no agent 'nobody': no flow that is served names it")
    assert instance["detail"] == "'plain-7' is an instance of agent 'plain'; name that one"
    assert (blank[0], [error["field"] for error in silent["errors"]], long[0]) == ("by", ["by", "reason"], "reason")
    assert service.http.get("/agents/plain").json()["state"] == "on"


def test_a_page_of_another_site_may_not(service: Service, tmp_path: Path) -> None:
    answer = service.http.post("/agents/register", json=GOOD, headers={"origin": "https://elsewhere.example"})

    refused(answer, 401, "not-admin")
