"""Calls on a Redis Cluster of three nodes: as on one server, and when a node is in trouble or its slots are moved."""

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from graph.store.errors import StoreRefused, StoreUnavailable
from graph.store.events import START
from graph.store.names import keys_of, thread_name
from graph.store.opening import open_store
from tests.a2a_client import Client, Json, opened, state_of
from tests.background import Background
from tests.conftest import Service, StartService
from tests.polite_agents import polite_agent
from tests.redis_cluster import Node, RedisCluster, free_port, redis_cluster, until
from tests.replicas import Agent, Replicas, artifacts, in_short
from tests.test_call_end_to_end import CALL, take

AtOnce = Callable[..., Future[Any]]

TENANT = "clustered"
INDEX = f"flows:index:{TENANT}"
FLOW = """
flow: till
waits_for: caller
agents: {{desk: {{url: "{url}"}}}}
stages:
  ask: {{intents: {{ask: desk}}}}
  pay: {{intents: {{pay: desk}}, effect: write}}
fallback: desk
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    with redis_cluster(tmp_path_factory.mktemp("cluster")) as running:
        yield running


@pytest.fixture(scope="module")
def polite(background: Background) -> Agent:
    return Agent(background.open(polite_agent("1.0")), background)


@pytest.fixture(scope="module")
def pair(cluster: RedisCluster, start_for_module: StartService, polite: Agent) -> Replicas:
    """Two replicas that know the cluster by different nodes; they serve calls and a relay to the agent."""
    env, given = {"RELAY_AGENT_URL": polite.polite.url}, {"flows": ("relay",), "tenant": TENANT}
    here, there = (start_for_module(env, redis_url=node.url, **given) for node in cluster.nodes[:2])
    return Replicas(here, there)


@pytest.fixture
def relays(pair: Replicas) -> tuple[Client, Client]:
    here, there = (Client(service.http, path="/a2a/relay") for service in both(pair))
    return here, there


# As on one server


def test_a_call_takes_its_turns_on_two_replicas(pair: Replicas, cluster: RedisCluster) -> None:
    told = [take(service, "C-1", [turn])[0] for service, turn in zip(both(pair) * 3, CALL, strict=False)]

    session = pair.there.http.get("/session/C-1").json()
    assert [answer["step"] for answer in told] == [1, 2, 3, 4, 5]
    assert (session["completed_flows"], session["is_complete"]) == ([1, 2, 3, 4, 5], True)
    assert [step["intent"] for step in session["steps"]] == [intent for _, intent in CALL]
    assert pair.here.http.get("/session/C-1/steps?verify=true").json()["verified"] is True
    stem = f"flows:{{{thread_name(TENANT, 'C-1')}}}:"
    kept = [key for key in cluster.kept() if key.startswith(stem)]
    assert {f"{stem}{part}" for part in ("call", "checkpoints", "steps")} <= set(kept)
    assert {cluster.slot_of(key) for key in kept} == {cluster.slot_of(stem)}


def test_the_calls_of_all_nodes_are_listed_the_last_one_first(pair: Replicas, cluster: RedisCluster) -> None:
    calls = [call for node in cluster.nodes for call in calls_on(cluster, node, "L", 2)]
    for call in calls:
        take(pair.here, call, CALL[:1])

    assert [task["contextId"] for task in listed(pair.there)[: len(calls)]] == calls[::-1]


def test_a_message_is_answered_once_wherever_it_is_repeated(pair: Replicas) -> None:
    sent = {"call_identify_id": "C-2", "account_id": "A", "eci": "E", "input_message": "hello", "intent": "greeting"}
    headers = {"idempotency-key": "once"}

    told = [service.http.post("/orchestrate", json=sent, headers=headers) for service in both(pair)]

    assert [answer.json()["step"] for answer in told] == [1, 1]
    assert told[0].json()["response"] == told[1].json()["response"]
    assert len(pair.here.http.get("/session/C-2/steps").json()) == 1


def test_a_write_of_which_nobody_knows_waits_for_a_person(
    start: StartService, cluster: RedisCluster, puppet: tuple[Any, str], tmp_path: Any
) -> None:
    (tmp_path / "till.yaml").write_text(FLOW.format(url=puppet[1]))
    till = start(flow=str(tmp_path / "till.yaml"), redis_url=cluster.nodes[2].url, tenant="till")
    till.turn("C", "hello", "ask").raise_for_status()

    lost = till.turn("C", "refuse", "pay").json()
    [waits] = till.http.get("/parked").json()["parked"]
    said = {"outcome": "done", "by": "jo", "why": "seen", "response": "sent"}
    told = till.http.post(f"/parked/{waits['id']}/resolve", json=said)

    assert waits["id"] == lost["parked"]
    assert told.status_code == 200, told.text
    assert told.json()["step"]["response_data"] == {"text": "sent"}
    assert till.http.get("/parked").json()["parked"] == []


@pytest.mark.parametrize("where", range(3))
def test_who_follows_a_call_is_told_at_once_whichever_node_keeps_it(
    relays: tuple[Client, Client], cluster: RedisCluster, at_once: AtOnce, polite: Agent, where: int
) -> None:
    parked, streamed = calls_on(cluster, cluster.nodes[where], "F", 2)
    here, there = relays

    task = here.send("ask", context=parked)["id"]
    following = there.subscribe(task)
    assert in_short(next(following)) == "task input-required"
    rest = at_once(list, following)
    here.send("well", task=task)
    told = list(map(in_short, rest.result(timeout=10)))

    stream = here.stream("stream", context=streamed)
    polite.go_on(1)
    heard = [next(stream) for _ in range(4)]
    later = there.subscribe(opened(heard[0])[1]["id"])
    caught_up = next(later)
    polite.go_on(2)

    assert told == ["status-update working", "2-answer thank you", "status-update completed"]
    assert artifacts(opened(caught_up)[1]) == {"1-n": [{"text": "one"}]}
    assert list(map(in_short, later)) == list(map(in_short, stream))


def test_a_call_is_cancelled_from_another_replica(relays: tuple[Client, Client], at_once: AtOnce) -> None:
    here, there = relays
    waiting = at_once(here.send, "toil", context="C-3")
    until(lambda: there.list(contextId="C-3")["tasks"])
    (task,) = there.list(contextId="C-3")["tasks"]

    canceled = there.cancel(task["id"])

    assert state_of(canceled) == state_of(waiting.result(timeout=10)) == "canceled"


def test_many_calls_at_once_wait_for_connections(cluster: RedisCluster) -> None:
    async def story() -> list[str]:
        async with open_store(url=f"{cluster.url}&max_connections=4") as store:
            turns = await asyncio.gather(*(store.calls.begin(f"crowd__c{number}") for number in range(100)))
            listed = await store.calls.recent("crowd")
            await asyncio.gather(*map(store.calls.abandon, turns))
            assert await store.calls.recent("crowd") == []
            return sorted(listed)

    assert asyncio.run(story()) == sorted(f"crowd__c{number}" for number in range(100))


# A node in trouble


def test_while_a_node_is_gone_the_calls_of_the_others_go_on(pair: Replicas, cluster: RedisCluster) -> None:
    gone = cluster.node_of(INDEX)
    (lost,) = calls_on(cluster, gone, "K", 1)
    living = [call for node in cluster.nodes if node is not gone for call in calls_on(cluster, node, "K", 1)]
    for call in (lost, *living):
        take(pair.here, call, CALL[:1])

    with cluster.without(gone):
        told = {call: pair.here.turn(call, *CALL[1]) for call in (lost, *living)}
        other = pair.there.turn(living[0], *CALL[2])

    assert_unavailable(told.pop(lost))
    assert [answer.status_code for answer in (*told.values(), other)] == [200] * 3
    assert take(pair.there, lost, CALL[1:2])[0]["step"] == 2
    assert listed(pair.here)[0]["contextId"] == lost


def test_a_silent_node_holds_up_nobody_else(pair: Replicas, cluster: RedisCluster) -> None:
    silent = next(node for node in cluster.nodes if node is not cluster.node_of(INDEX))
    (lost,) = calls_on(cluster, silent, "S", 1)
    (living,) = calls_on(cluster, cluster.node_of(INDEX), "S", 1)
    for call in (lost, living):
        take(pair.here, call, CALL[:1])

    with cluster.silencing(silent), ThreadPoolExecutor() as threads:
        waits = threads.submit(pair.here.turn, lost, *CALL[1])
        answered = pair.here.turn(living, *CALL[1])
        first = not waits.done()
        refused = waits.result()

    assert (answered.status_code, first) == (200, True)
    assert_unavailable(refused)
    assert until(lambda: pair.here.turn(lost, *CALL[1]).status_code == 200)


def test_who_follows_hears_by_another_node_when_theirs_is_gone(cluster: RedisCluster) -> None:
    async def story() -> list[bool]:
        async with open_store(url=cluster.url) as here, open_store(url=cluster.nodes[1].url) as there:
            before = hearers(cluster)
            async with here.events.watch(thread_name(TENANT, "W")):
                (theirs,) = [node for node in cluster.nodes if hearers(cluster)[node.port] > before[node.port]]
                another = cluster.nodes[cluster.nodes.index(theirs) - 1]
                thread = thread_name(TENANT, calls_on(cluster, another, "W", 1)[0])
                async with here.events.watch(thread) as watch:
                    with cluster.without(theirs):
                        told = [await watch.changed(10)]  # something may have been lost
                        await there.events.publish(thread, [{"event": "news"}])
                        return [*told, await watch.changed(10)]

    assert asyncio.run(story()) == [True, True]


def test_a_call_goes_on_at_the_node_that_its_slot_is_moved_to(
    pair: Replicas, cluster: RedisCluster, background: Background
) -> None:
    source = cluster.node_of(INDEX)
    target = cluster.nodes[cluster.nodes.index(source) - 1]
    (call,) = calls_on(cluster, source, "M", 1)
    take(pair.here, call, CALL[:1])
    slot = cluster.slot_of(f"{{{thread_name(TENANT, call)}}}")

    names = [node.do("CLUSTER", "MYID").decode() for node in (source, target)]
    target.do("CLUSTER", "SETSLOT", slot, "IMPORTING", names[0])
    source.do("CLUSTER", "SETSLOT", slot, "MIGRATING", names[1])
    keys = source.do("CLUSTER", "GETKEYSINSLOT", slot, 100)
    source.do("MIGRATE", "127.0.0.1", target.port, keys[0], 0, 5000)
    refused = pair.here.turn(call, *CALL[1])
    asked = background.run(pair.here.runtime.store.events.last(thread_name(TENANT, call)))  # of the node it goes to
    source.do("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys[1:])
    for node in (target, source, *cluster.nodes):
        node.do("CLUSTER", "SETSLOT", slot, "NODE", names[1])

    assert_unavailable(refused)
    assert asked == START
    assert [take(service, call, [turn])[0]["step"] for service, turn in zip(both(pair), CALL[1:3], strict=True)] == [
        2,
        3,
    ]
    assert cluster.slot_of(keys[0].decode()) == slot
    assert set(map(bytes.decode, keys)) <= {key.decode() for key in target.do("KEYS", "*")}


# Opening it


def test_auto_takes_core_and_the_other_saver_is_refused(cluster: RedisCluster) -> None:
    async def kind(**options: Any) -> str:
        async with open_store(**options) as store:
            return store.kind

    assert asyncio.run(kind(url=cluster.nodes[1].url)) == "core"
    for url, options, told in (
        (cluster.url, {"choice": "langgraph-redis"}, "langgraph-redis does not work on a Redis Cluster.*set .*=core"),
        (f"redis://127.0.0.1:{cluster.nodes[0].port}/1", {}, "leave the database out of REDIS_URL"),
        (f"redis://one:pw@127.0.0.1:{cluster.nodes[0].port}", {}, r"\+cluster\|slots"),
    ):
        for node in cluster.nodes:
            node.do("ACL", "SETUSER", "one", "on", ">pw", "~flows:*", "&flows:*", "+@all", "-cluster")
        with pytest.raises(StoreRefused, match=told):
            asyncio.run(kind(url=url, **options))


def test_a_node_without_slots_is_no_store(tmp_path: Any) -> None:
    node = Node(tmp_path / "lone", free_port(), free_port(), 0, 0)
    node.start()
    try:
        with pytest.raises(StoreUnavailable, match="cannot be reached"):
            asyncio.run(opened_and_closed(node.url))
    finally:
        node.kill()


async def opened_and_closed(url: str) -> None:
    async with open_store(url=url):
        pass


def listed(service: Service) -> list[Json]:
    """The tasks of all calls, the one that changed last first."""
    tasks: list[Json] = Client(service.http, path=f"/a2a/{service.runtime.routes.flow.flow}").list()["tasks"]
    return tasks


def both(pair: Replicas) -> list[Service]:
    return [pair.here, pair.there]


def calls_on(cluster: RedisCluster, node: Node, name: str, count: int) -> list[str]:
    """Names of calls that a node keeps."""
    found: list[str] = []
    number = 0
    while len(found) < count:
        number += 1
        call = f"{name}-{number}"
        if cluster.node_of(keys_of(thread_name(TENANT, call))[0]) is node:
            found.append(call)
    return found


def hearers(cluster: RedisCluster) -> dict[int, int]:
    """How many connections hear channels, by the port of their node."""
    return {node.port: len(node.do("CLIENT", "LIST", "TYPE", "pubsub")) for node in cluster.nodes}


def assert_unavailable(answer: httpx.Response) -> None:
    assert (answer.status_code, answer.json()["type"]) == (503, "store-unavailable"), answer.text
    assert int(answer.headers["retry-after"]) > 0
