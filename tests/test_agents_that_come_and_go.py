"""Calls whose agents die, come back, ask to be left alone, hang, flap and move while they are asked: a caller notices
no more than has to be, nothing is done twice, and the trail tells what happened."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from nodes.reaching.circuit import FAILURES
from nodes.reaching.endpoint import MISSES
from server.listening import listen, serving, url_of
from tests.background import Background
from tests.conftest import Service, StartService
from tests.desk import PATIENCE
from tests.polite_agents import PoliteAgent, polite_agent
from tests.puppet import Puppet
from tests.rough_agents import Answer, RoughAgent, Seen, answers, hangs, in_turn, rough_agent, says, sends

Json = dict[str, Any]
OpenAgent = Callable[..., RoughAgent]
BY_JO = {"by": "jo", "reason": "it pays twice"}


@pytest.fixture
def opened(background: Background) -> Iterator[Callable[[Any], Any]]:
    """Enter contexts that end with the test."""
    stack = AsyncExitStack()
    yield lambda context: background.run(stack.enter_async_context(context))
    background.run(stack.aclose())


@pytest.fixture
def rough(opened: Callable[[Any], Any]) -> OpenAgent:
    """Open agents that answer what they are given, one request after the other."""
    return lambda *following: opened(rough_agent(in_turn(*following)))


@pytest.fixture
def serve(start: StartService, tmp_path: Path) -> Callable[..., Service]:
    """Start a service on a flow; it probes nobody, so that what is seen is what calls have met."""

    def serve_flow(flow: str, **options: Any) -> Service:
        file = tmp_path / "flow.yaml"
        file.write_text(flow)
        return start(flow=str(file), probe_seconds=0, **{"checkpointer": "memory", **options})

    return serve_flow


@contextmanager
def nobody() -> Iterator[str]:
    """An address at which every connection is refused, and that nobody else gets meanwhile."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"


@asynccontextmanager
async def puppet_at(puppet: Puppet, port: int) -> AsyncIterator[None]:
    with listen("the puppet", "127.0.0.1", port) as listener:
        async with serving(puppet.app, listener, grace=1):
            yield


@asynccontextmanager
async def puppet_served(puppet: Puppet) -> AsyncIterator[str]:
    with listen("a puppet", "127.0.0.1", 0) as listener:
        async with serving(puppet.app, listener, grace=1):
            yield url_of(listener)


def trail(service: Service, call: str) -> list[Json]:
    answer = service.http.get(f"/session/{call}/steps")
    assert answer.status_code == 200, answer.text
    return list(answer.json())


def last(service: Service, call: str) -> Json:
    return trail(service, call)[-1]


def tried(step: Json) -> list[tuple[str, int, str, str]]:
    """What a step says of the attempts that failed; each took some time."""
    assert all(one["duration_ms"] >= 0 and one["message"] for one in step.get("tried", ()))
    return [(one["agent"], one["attempt"], one["type"], one["url"]) for one in step.get("tried", ())]


def until(look: Callable[[], Any]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not look():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def failures_at(service: Service, url: str) -> Any:
    """How many failures the service has seen at an endpoint."""
    return service.runtime.pool.endpoint(url).pace.figures()["errors"]


def prefer(service: Service, *urls: str) -> None:
    """Let the endpoints look as fast as they stand here."""
    for place, url in enumerate(urls):
        for _ in range(50):
            service.runtime.pool.endpoint(url).pace.note(0.01 * 10**place, failed=False)


# One call, and every trouble in turn

JOURNEY = """
flow: journey
waits_for: caller
agents:
  dies: {{url: "{dies}", attempts: 8}}
  busy: {{url: "{busy}", attempts: 2}}
  hangs: {{url: "{hangs}", attempts: 2, timeout: 200ms}}
  flaps: {{url: "{flaps}", attempts: 2}}
  moves: {{type: mover, attempts: 8}}
stages:
  greet: {{intents: {{greet: dies}}}}
  one: {{intents: {{dies: dies}}}}
  two: {{intents: {{busy: busy}}}}
  three: {{intents: {{hangs: hangs}}}}
  four: {{intents: {{flaps: flaps}}}}
  five: {{intents: {{flaps: flaps}}}}
  six: {{intents: {{moves: moves}}}}
fallback: dies
"""


def test_a_call_goes_through_while_each_agents_only_endpoint_fails_in_its_own_way(
    background: Background,
    opened: Callable[[Any], Any],
    rough: OpenAgent,
    serve: Callable[..., Service],
    at_once: Callable[..., Future[Any]],
) -> None:
    asked_at: list[float] = []
    unavailable = answers("", 503, retry_after="1")

    async def timed(seen: Seen) -> AsyncIterator[bytes]:
        asked_at.append(time.monotonic())
        async for piece in (unavailable if len(asked_at) == 1 else says("here I am"))(seen):
            yield piece

    mortal, lives = Puppet(), AsyncExitStack()
    with nobody() as somewhere:
        port = int(somewhere.rpartition(":")[2])
    background.run(lives.enter_async_context(puppet_at(mortal, port)))
    busy, hanging = rough(timed), rough(hangs, says("sorry"))
    flapping = rough(says("yes"), answers("", 500), says("yes again"))
    newcomer = rough(says("I am new here"))
    urls = {"dies": somewhere, "busy": busy.url, "hangs": hanging.url, "flaps": flapping.url}
    service = serve(JOURNEY.format(**urls))
    answered = [service.turn("C", "hello", "greet").json()]

    # It dies, and comes back while the call waits for it.
    background.run(lives.aclose())
    turn = at_once(service.turn, "C", "are you there?", "dies")
    until(lambda: failures_at(service, somewhere))
    opened(puppet_at(mortal, port))
    answered.append(turn.result().json())
    # It asks to be left alone; it hangs; it fails every second time.
    answered += [service.turn("C", f"{intent}?", intent).json() for intent in ("busy", "hangs", "flaps", "flaps")]
    # It is replaced by another instance elsewhere.
    with nobody() as left:
        registered = {"name": "mover-1", "agent_type": "mover", "capabilities": []}
        assert service.http.post("/agents/register", json={**registered, "url": left}).status_code == 201
        turn = at_once(service.turn, "C", "and you?", "moves")
        until(lambda: failures_at(service, left))
        assert service.http.post("/agents/register", json={**registered, "url": newcomer.url}).status_code == 201
        answered.append(turn.result().json())

    assert [answer["status"] for answer in answered] == ["success"] * 7
    assert [answer["response"]["text"] for answer in answered[1:]] == [
        *("you said are you there?", "here I am", "sorry", "yes", "yes again", "I am new here")
    ]
    assert answered[-1]["is_complete"]
    steps = trail(service, "C")
    assert [(step["stage"], step["agent"], step["a2a_agent_url"]) for step in steps] == [
        ("greet", "dies", somewhere),
        ("one", "dies", somewhere),
        ("two", "busy", busy.url),
        ("three", "hangs", hanging.url),
        ("four", "flaps", flapping.url),
        ("five", "flaps", flapping.url),
        ("six", "moves", newcomer.url),
    ]
    assert [tried(step) for step in steps] == [
        [],
        [("dies", 1, "unreachable", somewhere)],
        [("busy", 1, "http_error", busy.url)],
        [("hangs", 1, "timeout", hanging.url)],
        [],
        [("flaps", 1, "http_error", flapping.url)],
        [("moves", 1, "unreachable", left)],
    ]
    assert [step.get("attempt") for step in steps] == [None, 2, 2, 2, None, 2, 2]
    assert asked_at[1] - asked_at[0] >= 1
    assert steps[3]["tried"][0]["duration_ms"] >= 200
    assert steps[2]["duration_ms"] >= 1000 > steps[2]["tried"][0]["duration_ms"]


# How often, and how soon

ONE = """
flow: one
waits_for: caller
agents:
  desk: {{{desk}}}
  patient: {{{desk}, attempts: 5}}
  spare: {{url: "{spare}"}}
stages:
  ask: {{intents: {{ask: desk, insist: patient}}}}
  bye: {{intents: {{bye: desk}}}}
fallback: spare
"""


def one(desk: str, spare: str = "http://127.0.0.1:9") -> str:
    return ONE.format(desk=desk, spare=spare)


def at(*urls: str) -> str:
    """The key of an agent that answers there."""
    listed = ", ".join(f'"{url}"' for url in urls)
    return f"endpoints: [{listed}]"


def test_nobody_waits_for_longer_than_the_turn_has(rough: OpenAgent, serve: Callable[..., Service]) -> None:
    busy = rough(answers("", 503, retry_after="60"), says("well"))
    service = serve(one(f'url: "{busy.url}"'), turn_timeout_seconds=5)

    first = service.turn("C", "hello", "insist").json()
    second = service.turn("C", "hello?", "insist").json()

    assert [answer["response"]["error"]["type"] for answer in (first, second)] == ["http_error", "no_endpoint"]
    assert [answer["response"]["error"]["retryable"] for answer in (first, second)] == [True, True]
    assert "asked to be left alone" in second["response"]["error"]["message"]
    assert [tried(step) for step in trail(service, "C")] == [[], []]
    assert sum(step["duration_ms"] for step in trail(service, "C")) < 2_000
    assert len(busy.messages) == 1  # it is left alone by the next turn, too


def test_an_endpoint_that_flaps_is_neither_given_up_nor_noticed(
    rough: OpenAgent, serve: Callable[..., Service]
) -> None:
    flapping = rough(*[answers("", 500), says("yes")] * 8)
    service = serve(one(f'url: "{flapping.url}"'))

    told = [service.turn(f"C{number}", "hello", "insist").json()["status"] for number in range(4)]

    assert told == ["success"] * 4
    assert service.runtime.pool.endpoint(flapping.url).circuit.state == "closed"


def test_an_endpoint_that_is_gone_is_not_asked_again_and_again_and_found_when_it_is_back(
    background: Background, opened: Callable[[Any], Any], serve: Callable[..., Service]
) -> None:
    puppet = Puppet()
    with nobody() as gone:
        service = serve(one(f'url: "{gone}"'))
        told = [service.turn("C", "hello", "ask").json()["response"]["error"]["type"] for _ in range(7)]
    opened(puppet_at(puppet, int(gone.rpartition(":")[2])))
    circuit = service.runtime.pool.endpoint(gone).circuit
    until(lambda: circuit.state == "half_open")

    back = service.turn("C", "hello", "ask").json()

    assert told == ["unreachable"] * 5 + ["no_endpoint"] * 2
    assert (back["status"], circuit.state) == ("success", "closed")


def test_an_open_circuit_is_waited_for_where_there_are_attempts_left(
    rough: OpenAgent, serve: Callable[..., Service]
) -> None:
    back = rough(*[answers("", 500)] * 5, says("back"))
    service = serve(one(f'url: "{back.url}"'))
    for _ in range(FAILURES):
        service.turn("C", "hello", "ask")

    told = service.turn("D", "hello", "insist").json()

    [step] = trail(service, "D")
    assert (told["status"], step["a2a_agent_url"], tried(step)) == (
        "success",
        back.url,
        [("patient", 1, "no_endpoint", "")],
    )


def test_who_comes_while_one_is_on_trial_waits_for_what_comes_of_it(
    rough: OpenAgent, serve: Callable[..., Service], at_once: Callable[..., Future[Any]]
) -> None:
    async def slowly(seen: Seen) -> AsyncIterator[bytes]:
        await asyncio.sleep(0.3)
        async for piece in says("back")(seen):
            yield piece

    agent = rough(slowly)
    service = serve(one(f'url: "{agent.url}"'))
    circuit = service.runtime.pool.endpoint(agent.url).circuit
    for _ in range(FAILURES):
        circuit.failed()
    circuit.try_now()

    first = at_once(service.turn, "C", "hello", "ask")
    until(lambda: agent.messages)
    second = service.turn("D", "hello", "insist").json()

    assert (first.result().json()["status"], second["status"]) == ("success", "success")
    assert {kind for _, _, kind, _ in tried(last(service, "D"))} == {"no_endpoint"}
    assert "tried" not in last(service, "C")


# Several endpoints


def test_a_read_goes_on_to_the_other_endpoints_at_once_whatever_attempts_says(
    rough: OpenAgent, serve: Callable[..., Service]
) -> None:
    broken, well = rough(sends()), rough(says("well"))
    with nobody() as gone:
        service = serve(one(at(gone, broken.url, well.url)))
        prefer(service, gone, broken.url, well.url)
        told = service.turn("C", "hello", "ask").json()

    step = last(service, "C")
    assert (told["response"]["text"], step["a2a_agent_url"], step["attempt"]) == ("well", well.url, 3)
    assert tried(step) == [("desk", 1, "unreachable", gone), ("desk", 2, "disconnected", broken.url)]
    assert step["candidates"] == [
        {"url": gone, "excluded": "failed_just_before"},
        {"url": broken.url, "excluded": "failed_just_before"},
        {"url": well.url},
    ]
    assert step["duration_ms"] < 1_000


def test_no_turn_fails_when_one_of_three_endpoints_is_killed_under_load(
    background: Background, serve: Callable[..., Service]
) -> None:
    """Thirty-two calls are in flight, some at each endpoint, when one goes with every connection that it has."""
    stacks = [AsyncExitStack() for _ in range(3)]
    go = asyncio.Event()
    held: list[str] = []

    def holding(name: int) -> Answer:
        async def answer(seen: Seen) -> AsyncIterator[bytes]:
            held.append(seen.rpc["params"]["message"]["contextId"])
            await go.wait()
            async for piece in says(f"from {name}")(seen):
                yield piece

        return answer

    agents: list[RoughAgent] = [
        background.run(stack.enter_async_context(rough_agent(holding(name)))) for name, stack in enumerate(stacks)
    ]
    service = serve(one(at(*(agent.url for agent in agents))))

    async def story() -> tuple[list[Json], list[Json]]:
        async with httpx.AsyncClient(base_url=service.url, timeout=30) as http:

            async def turn(call: str) -> Json:
                said = {"call_identify_id": call, "account_id": "A", "eci": "E", "input_message": "hi"}
                return dict((await http.post("/orchestrate", json={**said, "intent": "ask"})).json())

            in_flight = [asyncio.create_task(turn(f"D{number}")) for number in range(32)]
            while len(held) < 32:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
            await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(stacks[0].aclose(), background.loop))
            background.loop.call_soon_threadsafe(go.set)
            during = await asyncio.gather(*in_flight)
            return during, await asyncio.gather(*(turn(f"E{number}") for number in range(32)))

    try:
        during, after = asyncio.run(story())
    finally:
        for stack in stacks:
            background.run(stack.aclose())

    assert [answer["status"] for answer in during + after] == ["success"] * 64
    dead, *alive = (agent.url for agent in agents)
    steps = [last(service, f"{turns}{number}") for turns in "DE" for number in range(32)]
    assert {step["a2a_agent_url"] for step in steps} == set(alive)
    moved = [step for step in steps if "tried" in step]
    assert len(moved) >= 10
    assert {kind for step in moved for _, _, kind, _ in tried(step)} <= {"disconnected", "unreachable"}
    assert {url for step in moved for *_, url in tried(step)} == {dead}


# Writes

KIOSK = """
flow: kiosk
waits_for: caller
agents:
  till: {{{till}}}
  spare: {{url: "{spare}"}}
stages:
  pay: {{intents: {{pay: till}}, effect: write}}
  bye: {{intents: {{bye: spare}}}}
fallback: spare
"""
PAID = says("paid")
ONCE = ", idempotent: true"
SPARE = ", fallback: spare"


@dataclass
class Kiosk:
    """Where paying is the first thing that is done: the till has two endpoints, the first of which is asked first."""

    service: Service
    spare: RoughAgent
    told: httpx.Response

    @property
    def step(self) -> Json:
        return last(self.service, "C")

    @property
    def outcome(self) -> tuple[int, str]:
        """The status of the answer, and who paid, or why nobody did."""
        told = self.told.json()
        if self.told.status_code != 200:
            return self.told.status_code, told["type"]
        return 200, told["response"].get("error", {}).get("type") or told["response"]["text"]


@pytest.fixture
def pay(rough: OpenAgent, serve: Callable[..., Service]) -> Callable[..., Kiosk]:
    """Pay at a till."""

    def pay_there(*urls: str, more: str = "") -> Kiosk:
        spare = rough(says("the spare one paid"))
        service = serve(KIOSK.format(till=at(*urls) + more, spare=spare.url))
        prefer(service, *urls)
        return Kiosk(service, spare, service.turn("C", "pay", "pay"))

    return pay_there


def sent(agent: RoughAgent) -> list[str]:
    """The ids of the messages that an agent was sent."""
    messages = [seen.rpc for seen in agent.messages if seen.rpc["method"] == "message/send"]
    return [message["params"]["message"]["messageId"] for message in messages]


def test_a_write_that_was_not_delivered_goes_to_another_endpoint(rough: OpenAgent, pay: Callable[..., Kiosk]) -> None:
    other = rough(PAID)
    with nobody() as gone:
        kiosk = pay(gone, other.url)

    assert kiosk.outcome == (200, "paid")
    assert (kiosk.step["a2a_agent_url"], tried(kiosk.step)) == (other.url, [("till", 1, "unreachable", gone)])
    assert sent(other) == [kiosk.step["message_id"]]


@pytest.mark.parametrize(
    ("does", "more"),
    [
        (sends(), ""),
        (answers("", 500), ", attempts: 3"),
        (answers("", 503, retry_after="0"), SPARE),
        (answers("<html>"), ", attempts: 3" + SPARE),
    ],
    ids=["gone", "500", "503", "no A2A"],
)
def test_a_write_that_may_have_been_done_goes_nowhere_else(
    rough: OpenAgent, pay: Callable[..., Kiosk], does: Answer, more: str
) -> None:
    first, other = rough(does), rough(PAID)

    kiosk = pay(first.url, other.url, more=more)

    assert kiosk.outcome == (409, "outcome-unknown")
    assert (sent(first), other.messages, kiosk.spare.messages) == ([kiosk.step["message_id"]], [], [])
    assert (kiosk.step["a2a_agent_url"], kiosk.step["parked"]) == (first.url, kiosk.told.json()["parked"])


def test_a_write_that_an_agent_does_once_is_sent_to_another_endpoint_too(
    rough: OpenAgent, pay: Callable[..., Kiosk]
) -> None:
    first, other = rough(sends()), rough(PAID)

    kiosk = pay(first.url, other.url, more=ONCE)

    assert (kiosk.outcome, kiosk.step["a2a_agent_url"]) == ((200, "paid"), other.url)
    assert set(sent(first)) == set(sent(other)) == {kiosk.step["message_id"]}
    assert tried(kiosk.step) == [("till", 1, "disconnected", first.url)]


def test_a_write_that_may_have_been_done_goes_to_no_fallback_though_later_attempts_did_not_arrive(
    rough: OpenAgent, pay: Callable[..., Kiosk]
) -> None:
    first = rough(sends())
    with nobody() as gone:
        kiosk = pay(first.url, gone, more=ONCE + SPARE)

    error = kiosk.told.json()["response"]["error"]
    assert (error["type"], error["outcome"], error["retryable"]) == ("unreachable", "unknown", True)
    assert (kiosk.spare.messages, set(sent(first))) == ([], {kiosk.step["message_id"]})
    assert tried(kiosk.step) == [("till", 1, "disconnected", first.url)]


def test_a_write_goes_to_the_fallback_if_the_agent_was_certainly_not_reached(pay: Callable[..., Kiosk]) -> None:
    with nobody() as gone, nobody() as gone_too:
        kiosk = pay(gone, gone_too, more=SPARE)

    assert kiosk.outcome == (200, "the spare one paid")
    assert (kiosk.step["agent"], kiosk.step["a2a_agent_url"]) == ("spare", kiosk.spare.url)
    assert tried(kiosk.step) == [("till", 1, "unreachable", gone), ("till", 2, "unreachable", gone_too)]


@asynccontextmanager
async def hears_one_message_and_is_gone() -> AsyncIterator[tuple[str, list[bytes]]]:
    """Nobody listens any more by the time that whoever sent the message finds that nobody answers."""
    heard: list[bytes] = []

    async def hear(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.readuntil(b"\r\n\r\n"))
        if heard[-1].startswith(b"GET"):
            writer.write(b"HTTP/1.1 404 No\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        else:
            server.close()
        writer.close()

    server = await asyncio.start_server(hear, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", heard


def test_a_write_whose_agent_dies_of_it_may_have_been_done(
    opened: Callable[[Any], Any], pay: Callable[..., Kiosk]
) -> None:
    url, heard = opened(hears_one_message_and_is_gone())

    kiosk = pay(url, more=ONCE + SPARE)

    error = kiosk.told.json()["response"]["error"]
    assert (error["type"], error["outcome"], error["retryable"]) == ("unreachable", "unknown", True)
    assert ([one[:4] for one in heard], kiosk.spare.messages) == ([b"GET ", b"POST"], [])


# Switched off


def test_what_is_asked_of_an_agent_that_is_off_goes_to_its_fallback(
    rough: OpenAgent, serve: Callable[..., Service]
) -> None:
    till, spare = rough(PAID), rough(says("the spare one paid"))
    service = serve(KIOSK.format(till=at(till.url) + SPARE, spare=spare.url))
    assert service.http.post("/agents/till/off", json=BY_JO).status_code == 200

    told = service.turn("C", "pay", "pay").json()

    step = last(service, "C")
    assert (told["response"]["text"], till.seen, step["agent"]) == ("the spare one paid", [], "spare")
    assert (tried(step), "instead_of" in step) == ([("till", 1, "agent_off", "")], False)


def test_a_stage_whose_agent_is_off_is_answered_by_the_flows_fallback_and_not_completed(
    rough: OpenAgent, serve: Callable[..., Service]
) -> None:
    till, spare = rough(PAID), rough(says("not now, sorry"))
    service = serve(KIOSK.format(till=at(till.url), spare=spare.url))
    assert service.http.post("/agents/till/off", json=BY_JO).status_code == 200
    off = service.turn("C", "pay", "pay").json()
    step = last(service, "C")
    assert service.http.post("/agents/till/on", json={"by": "jo"}).status_code == 200

    on = service.turn("C", "pay", "pay").json()

    assert (off["response"]["text"], off["next_flow_id"]) == ("not now, sorry", 1)
    assert (step["agent"], step["fallback"], step["instead_of"]) == ("spare", True, {"agent": "till", "why": "off"})
    assert (on["response"]["text"], on["next_flow_id"]) == ("paid", 2)
    assert len(till.messages) == 1


# What is under way


@pytest.mark.parametrize("number", range(3))
def test_a_task_that_waits_for_the_caller_stays_at_its_endpoint_whatever_else_happens(
    opened: Callable[[Any], Any],
    start: StartService,
    serve: Callable[..., Service],
    valkey_url: str,
    number: int,
) -> None:
    """Also when the service is started anew, and the other endpoint looks better, or this one's card is gone."""
    agents: list[PoliteAgent] = [opened(polite_agent("1.0")) for _ in range(2)]
    urls = [agent.url for agent in agents]
    options = {"checkpointer": "core", "redis_url": valkey_url, "tenant": f"stays-{number}"}
    before = serve(one(at(*urls)), **options)
    prefer(before, *(urls if number % 2 else reversed(urls)))
    asked = before.turn("C", "ask", "ask").json()
    where = last(before, "C")["a2a_agent_url"]
    before.stop()

    after = serve(one(at(*urls)), **options)
    prefer(after, *sorted(urls, key=lambda url: url == where))
    if number > 1:
        for _ in range(MISSES):
            after.runtime.pool.endpoint(where).probed(healthy=False)
    done = after.turn("C", "42", "ask").json()

    assert where == (urls[0] if number % 2 else urls[1])
    assert (asked["response"]["task_state"], done["response"]["text"]) == ("input-required", "thank you")
    assert (last(after, "C")["a2a_agent_url"], "tried" in last(after, "C")) == (where, False)
    assert [len(agent.parts) for agent in agents] == ([2, 0] if number % 2 else [0, 2])


def test_a_write_at_work_is_asked_about_where_it_was_sent_also_by_another_process(
    opened: Callable[[Any], Any], serve: Callable[..., Service], valkey_url: str
) -> None:
    here, there = Puppet(), Puppet()
    urls = [opened(puppet_served(puppet)) for puppet in (here, there)]
    flow = KIOSK.format(till=at(*urls) + ", timeout: 400ms", spare=urls[1])
    options = {"checkpointer": "core", "redis_url": valkey_url, "tenant": "asks"}
    before = serve(flow, **options)
    prefer(before, *urls)
    waiting = before.turn("C", "work", "pay").json()
    before.stop()

    after = serve(flow, **options)
    prefer(after, *reversed(urls))
    here.finish()
    done = after.turn("C", "is it done?", "pay").json()

    assert waiting["response"]["error"]["type"] == "timeout"
    assert (done["response"]["text"], last(after, "C")["a2a_agent_url"]) == ("it is done", urls[0])
    assert ([len(puppet.messages) for puppet in (here, there)], "tried" in last(after, "C")) == ([1, 0], False)


def test_an_endpoint_with_a_task_is_waited_for_while_it_asks_to_be_left_alone(
    opened: Callable[[Any], Any], serve: Callable[..., Service]
) -> None:
    agents: list[PoliteAgent] = [opened(polite_agent("1.0")) for _ in range(2)]
    urls = [agent.url for agent in agents]
    service = serve(one(at(*urls)))
    prefer(service, *urls)
    service.turn("C", "ask", "insist")
    service.runtime.pool.endpoint(urls[0]).rest(0.5)

    told = service.turn("C", "42", "insist").json()

    assert (told["response"]["text"], [len(agent.parts) for agent in agents]) == ("thank you", [2, 0])
    assert tried(last(service, "C")) == [("patient", 1, "no_endpoint", "")]
