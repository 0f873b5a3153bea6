"""Two services that are killed in the middle of everything, what they leave behind, what their agents did, and their
clients: what `test_writes_of_dead_processes` stands on."""

import asyncio
import contextlib
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path

import hiredis
import httpx
import pytest
from redis import Redis

from graph.store.names import keys_of, thread_name
from graph.store.packing import STEPS
from server import resuming
from server.listening import listen, serving, url_of
from tests.a2a_client import Client, Json
from tests.background import Background
from tests.chaos.ledger import Books, Effect
from tests.chaos.processes import Replica, agents, nursery
from tests.conftest import StartService
from tests.puppet import Puppet

KINDS = {"askable": "refund", "forgetful": "credit", "idempotent": "book"}
"""The agents that write, each with the intent that reaches it: one that keeps its tasks, one that keeps nothing, and
one that acts once on a message."""
PAYS = "pay: {intents: {refund: askable, credit: forgetful, book: idempotent}, effect: write}"
BRANCHES = "pay: {effect: write, parallel: {one: {agent: askable}, two: {agent: forgetful}}}"
ENDS = "close: {intents: {bye: reader}}"


def flow(name: str, *stages: str, first: str = "inputs: [order]") -> str:
    """A flow that has the agents that its stages name."""
    text = "\n".join(f"  {stage}" for stage in stages)
    agents = [one for one in ("reader", *KINDS) if one in text]
    acts_once = {"idempotent": ", idempotent: true"}
    listed = "\n".join(f'  {one}: {{url: "${{{one.upper()}_URL}}"{acts_once.get(one, "")}}}' for one in agents)
    return f"flow: {name}\n{first}\nagents:\n{listed}\nstages:\n{text}\n"


def flows() -> Iterator[tuple[str, str]]:
    """All flows, by name: those of callers, and for each kind of agent two that go by themselves."""
    calls = "waits_for: caller\nfallback: reader"
    yield "till", flow("till", "greet: {intents: {greet: reader}}", PAYS, ENDS, first=calls)
    yield "kiosk", flow("kiosk", PAYS, ENDS, first=calls)
    yield "both", flow("both", BRANCHES, ENDS, first=calls)
    for kind in KINDS:
        pays = f"pay: {{agent: {kind}, effect: write, input: {{text: order}}}}"
        yield f"order_{kind}", flow(f"order_{kind}", "look: {agent: reader}", pays, "tell: {agent: reader}")
        each = f"pay: {{map: {{over: orders, agent: {kind}}}, effect: write, input: {{text: item}}}}"
        yield f"each_{kind}", flow(f"each_{kind}", each, "tell: {agent: reader}", first="inputs: [orders]")


_SWALLOWED, _DEAFENED = (re.compile(rb'"(%s-\w+-2)"' % name) for name in (b"swallow", b"deafen"))
"""The messages of such calls, as steps name them."""


# Two services are killed, in the middle of everything


@dataclass
class Wire:
    """The way of a service to its store: it loses commits of calls named `swallow-…` before they arrive, and the
    answers to those of calls named `deafen-…`."""

    store: str
    url: str = ""
    lost: set[bytes] = field(default_factory=set)
    """The messages whose commits are lost, or the answers to those."""

    def has_lost(self, number: int) -> bool:
        return len(self.lost) == number

    async def pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, port = self.store.removeprefix("redis://").split(":")
        up, down = await asyncio.open_connection(host, int(port))
        deafened: list[bytes] = []
        commands, cut = hiredis.Reader(), False
        answers = asyncio.create_task(self._answers(up, writer, deafened))
        try:
            while sent := await reader.read(1 << 20):
                commands.feed(sent)
                for step in _committed(commands):
                    deafened += _DEAFENED.findall(step)
                    swallowed = _SWALLOWED.findall(step)
                    self.lost.update(swallowed)
                    cut = cut or bool(swallowed)
                if not cut:
                    down.write(sent)
        except ConnectionError:
            pass
        finally:
            answers.cancel()
            down.close()
            writer.close()

    async def _answers(self, up: asyncio.StreamReader, writer: asyncio.StreamWriter, deafened: list[bytes]) -> None:
        with contextlib.suppress(ConnectionError):
            while answer := await up.read(1 << 20):
                self.lost.update(deafened)
                if not deafened:
                    writer.write(answer)


def _committed(commands: hiredis.Reader) -> Iterator[bytes]:
    """The steps in what was sent to the store, as JSON."""
    while command := commands.gets():
        for argument in command:
            with contextlib.suppress(ValueError):
                if (plain := STEPS.unpack(argument)).startswith(b'{"number"'):
                    yield plain


@dataclass
class Scene:
    """What there is once the services are dead."""

    books: Books
    """What the agents did."""
    http: httpx.Client
    """Reaches a service on the same store, to which the clients come back; nobody looks for dead turns there."""
    swept: httpx.Client
    """Reaches one that does, on the store of the calls to which nobody comes back."""
    redis: Redis
    sent: dict[str, Callable[[httpx.Client], Json]] = field(default_factory=dict)
    """What each client had sent when the service died, to be sent again."""

    def again(self, call: str) -> Json:
        """Send once more what was not answered."""
        return self.sent[call](self.http)

    def say(self, call: str, words: str, intent: str) -> Json:
        """Say something else in the call."""
        return Client(self.http, path="/a2a/till").send(words, context=call, metadata={"intent": intent})

    def steps(self, call: str) -> list[Json]:
        return steps_of(self.http, call)

    def did(self, call: str) -> list[Effect]:
        return [effect for effect in self.books.effects() if effect.intended.partition("/")[0] == call]

    def parked(self, call: str) -> list[str]:
        return parked_in(self.http, call)

    def expires(self, call: str) -> bool:
        """Whether all of the call does, or nothing."""
        lives = [self.redis.ttl(key) for key in keys_of(thread_name("back", call))[:6]]
        there = {life > 0 for life in lives if life != -2}
        assert len(there) == 1
        return there.pop()


@contextmanager
def killed_services(background: Background, start: StartService, place: Path, store: str) -> Iterator[Scene]:
    """Kill two services that hold thirty calls, all of them in the middle of a write.

    Args:
        background: where what stays alive runs.
        start: starts the service to which clients come back.
        place: an empty folder.
        store: the store's address.
    """
    for name, text in flows():
        (place / f"{name}.yaml").write_text(text)
    with ExitStack() as stack:
        processes = AsyncExitStack()
        stack.callback(lambda: background.run(processes.aclose()))
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        dying, forgotten, swept = (stack.enter_context(httpx.Client(timeout=60)) for _ in range(3))
        threads = stack.enter_context(ThreadPoolExecutor(40))
        urls, replicas, wire = background.run(open_world(processes, place, store))
        patch.setattr(resuming, "LOOK_SECONDS", 3_600.0)  # a client that comes back is to be the first
        here = {"redis_url": store, "tenant": "back", "lease_seconds": 2}
        env = {f"{name.upper()}_URL": url for name, url in urls.items()}
        service = start(env, flow=str(place / "till.yaml"), flows=(str(place),), **here)
        for client, replica in zip((dying, forgotten, swept), replicas, strict=True):
            client.base_url = httpx.URL(replica.url)
        books = stack.enter_context(contextlib.closing(Books(place / "ledger")))
        redis = stack.enter_context(Redis.from_url(store))
        scene = Scene(books, service.http, swept, redis)
        for begin in chain(calls_swept(scene, forgotten), calls_back(scene, dying)):
            threads.submit(begin)
            until(lambda: is_at_work(scene))
            losing = sum(call.startswith(("swallow", "deafen")) for call in scene.sent)
            until(partial(wire.has_lost, losing))  # or the next one might share its way
        for replica in replicas[:2]:
            os.kill(replica.pid, signal.SIGKILL)
        for kind in KINDS:
            httpx.post(f"{urls[kind]}/let-go").raise_for_status()
        yield scene


async def open_world(stack: AsyncExitStack, place: Path, store: str) -> tuple[dict[str, str], list[Replica], Wire]:
    """Start the agents, the two services that are to die, and one that goes on with what the second leaves."""
    urls = await stack.enter_async_context(agents(place / "ledger"))
    listener = stack.enter_context(listen("the reader", "127.0.0.1", 0))
    await stack.enter_async_context(serving(Puppet().app, listener, grace=1))
    urls["reader"] = url_of(listener)
    home, wire = await stack.enter_async_context(nursery()), Wire(store)
    server = await stack.enter_async_context(await asyncio.start_server(wire.pass_on, "127.0.0.1", 0))
    wire.url = f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}?socket_timeout=60"  # nothing is tried again
    env = {f"{name.upper()}_URL": url for name, url in urls.items()}
    env |= {"FLOWS_FLOW": str(place / "till.yaml"), "FLOWS_FLOWS": str(place), "FLOWS_LEASE_SECONDS": "2"}

    def replica(name: str, tenant: str, url: str) -> Replica:
        own = {"REDIS_URL": url, "FLOWS_TENANT": tenant, "FLOWS_DATA_DIR": str(place / name)}
        return Replica(name, home, {**env, **own}, place / f"{name}.log")

    replicas = [replica("dying", "back", wire.url), replica("forgotten", "swept", store)]
    replicas.append(replica("keeper", "swept", store))
    for one in replicas:
        await one.start()
        stack.push_async_callback(one.kill)
    return urls, replicas, wire


# What the clients had sent


def paying(
    scene: Scene, client: httpx.Client, call: str, kind: str, flow: str = "till", words: str = "pay"
) -> Callable[[], None]:
    """A client of A2A that pays; where its words tell of a lost commit, the agent answers at once."""
    metadata = {"intent": KINDS[kind], "intended": call, "hold": words == "pay"}

    def send(http: httpx.Client) -> Json:
        to = Client(http, path=f"/a2a/{flow}")
        return to.send(words, context=call, message_id=f"{call}-2", metadata=metadata)

    def begin() -> None:
        if flow == "till":
            Client(client, path="/a2a/till").send("hello", context=call, metadata={"intent": "greet"})
        in_vain(send, client)

    scene.sent[call] = send
    return begin


def posting(scene: Scene, client: httpx.Client, call: str, path: str, body: Json) -> Callable[[], None]:
    """A client that posts documents."""
    metadata = {"intended": call, "hold": True}

    def send(http: httpx.Client) -> Json:
        told: Json = http.post(path, json={**body, "metadata": metadata}).json()
        return told

    scene.sent[call] = send
    return lambda: in_vain(send, client)


def orchestrating(scene: Scene, client: httpx.Client, call: str, kind: str) -> Callable[[], None]:
    said = {"call_identify_id": call, "account_id": "A", "eci": "E", "input_message": "pay", "flow": "kiosk"}
    return posting(scene, client, call, "/orchestrate", {**said, "intent": KINDS[kind]})


def running(scene: Scene, client: httpx.Client, call: str, flow: str) -> Callable[[], None]:
    given = {"orders": ["one", "two", "three"]} if flow.startswith("each") else {"order": "pay"}
    return posting(scene, client, call, f"/flows/{flow}/runs", {"id": call, "input": given})


def in_vain(send: Callable[[httpx.Client], Json], client: httpx.Client) -> None:
    with contextlib.suppress(httpx.HTTPError):
        send(client)


def calls_back(scene: Scene, client: httpx.Client) -> Iterator[Callable[[], None]]:
    """The calls to which somebody comes back."""
    for kind in KINDS:
        for flow in ("till", "kiosk"):
            yield paying(scene, client, f"same-{flow}-{kind}", kind, flow)
        yield paying(scene, client, f"other-{kind}", kind)
        yield orchestrating(scene, client, f"keyless-{kind}", kind)
        yield running(scene, client, f"run-{kind}", f"order_{kind}")
    yield paying(scene, client, "denied", "forgetful")
    yield paying(scene, client, "both", "askable", "both")
    for kind in ("askable", "forgetful"):  # the last ones: each takes one of the few connections to the store away
        for words in ("swallow", "deafen"):
            yield paying(scene, client, f"{words}-{kind}", kind, words=words)


def calls_swept(scene: Scene, client: httpx.Client) -> Iterator[Callable[[], None]]:
    """The calls to which nobody comes back."""
    for kind in KINDS:
        for flow in ("till", "kiosk"):
            yield paying(scene, client, f"never-{flow}-{kind}", kind, flow)
        yield running(scene, client, f"order-{kind}", f"order_{kind}")
        yield running(scene, client, f"each-{kind}", f"each_{kind}")


def is_at_work(scene: Scene) -> bool:
    """Whether agents have acted on what was sent last."""
    call = list(scene.sent)[-1]
    return len(scene.did(call)) == {"each": 3, "both": 2}.get(call.partition("-")[0], 1)


# What was found, and what is to be found


def until(found: Callable[[], bool], patience: float = 20) -> None:
    """Wait for something to come true."""
    give_up = time.monotonic() + patience
    while not found():
        assert time.monotonic() < give_up
        time.sleep(0.02)


def steps_of(http: httpx.Client, call: str) -> list[Json]:
    told = http.get(f"/session/{call}/steps")
    return list(told.json()) if told.is_success else []


def parked_in(http: httpx.Client, call: str) -> list[str]:
    return [one["id"] for one in http.get("/parked").json()["parked"] if one["call_identify_id"] == call]


def settle(http: httpx.Client, name: str, outcome: str, **more: str) -> Json:
    said = {"outcome": outcome, "by": "jo", "why": "looked into the ledger", **more}
    answer = http.post(f"/parked/{name}/resolve", json=said)
    assert answer.status_code == 200, answer.text
    told: Json = answer.json()
    return told


def outcomes(steps: list[Json]) -> list[str]:
    """What came of each step, in a word."""
    return ["parked" if "parked" in step else step["response_status"] for step in steps]


def execution(http: httpx.Client, call: str) -> Json:
    told: Json = http.get(f"/executions/{call}").json()
    return told
