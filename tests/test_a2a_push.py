"""Push notifications at the door: configured on any replica, and sent by whichever takes the turn."""

from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from tests.a2a_client import Client, Json, RpcError, roles_and_words, state_of
from tests.background import Background
from tests.conftest import Service, StartService
from tests.polite_agents import polite_agent
from tests.replicas import SHARED, Agent, Replicas, artifacts, replicas
from tests.rough_agents import Answer, answers, in_turn, rough_agent
from tests.webhooks import Configs, Listen, Webhook, wanting

FINE = answers("", 204)
DOWN = answers("", 503, retry_after="0")
LOOPBACK = {"push_allow": ("127.0.0.0/8",)}


@pytest.fixture(scope="module")
def obliging(background: Background) -> Agent:
    """The agent of every test here."""
    return Agent(background.open(polite_agent("1.0")), background)


@pytest.fixture(scope="module", params=SHARED)
def relay(request: pytest.FixtureRequest, start_for_module: StartService, obliging: Agent) -> Replicas:
    env = {"RELAY_AGENT_URL": obliging.polite.url}
    return replicas(request, start_for_module, request.param, env, flow="relay", **LOOPBACK)


@pytest.fixture(scope="module")
def call(start_for_module: StartService, obliging: Agent) -> Service:
    env = {"GREETING_AGENT_URL": obliging.polite.url}
    return start_for_module(env, checkpointer="memory", **LOOPBACK)


@pytest.fixture
def listen(background: Background) -> Iterator[Listen]:
    stack = AsyncExitStack()

    def listen_one(answer: Answer = FINE) -> Webhook:
        heard = background.run(stack.enter_async_context(rough_agent(answer)))
        return Webhook(heard, f"{heard.url}/hook")

    yield listen_one
    background.run(stack.aclose())


@pytest.mark.parametrize("version", ["1.0", "0.3"])
def test_configurations_are_the_same_on_every_replica(relay: Replicas, listen: Listen, version: Any) -> None:
    clients = relay.clients(version)
    here, there = map(Configs, clients)
    task, url = clients[0].send("ask")["id"], listen().url

    mine = here.create(task, url, id="mine", token="t", bearer="secret")
    other = there.create(task, url, id="other")

    scheme: Json = {"scheme": "Bearer"} if version == "1.0" else {"schemes": ["Bearer"]}
    given = {"id": "mine", "taskId": task, "url": url, "token": "t"}
    assert mine == {**given, "authentication": {**scheme, "credentials": "secret"}}
    for configs in (here, there):
        assert configs.list(task) == [mine, other]
        assert [configs.get(task, name) for name in ("mine", "other")] == [mine, other]

    changed = there.create(task, url, id="mine")
    assert here.get(task, "mine") == changed == {"id": "mine", "taskId": task, "url": url}
    assert [here.delete(task, "other") for _ in range(2)] == [None, None]
    assert there.list(task) == [changed]
    with pytest.raises(RpcError, match="-32001: the task has no push notification configuration 'other'"):
        there.get(task, "other")
    with pytest.raises(RpcError, match="-32001: task not found: 'none'"):
        there.get("none", "other")


def test_clients_of_both_versions_see_one_anothers_configurations(relay: Replicas, listen: Listen) -> None:
    new, _ = relay.clients()
    old, _ = relay.clients("0.3")
    task, url = new.send("ask")["id"], listen().url
    Configs(new).create(task, url, id="new", token="t")
    Configs(old).create(task, url, id="old", token="t")

    assert Configs(new).list(task) == Configs(old).list(task)
    assert Configs(new).list(task, pageSize=10) == Configs(new).list(task)
    assert Configs(old).get(task, None)["id"] == "new"


@pytest.mark.parametrize("version", ["1.0", "0.3"])
def test_a_configuration_without_a_name_gets_one(relay: Replicas, listen: Listen, version: Any) -> None:
    client, _ = relay.clients(version)
    task = client.send("ask")["id"]

    made = Configs(client).create(task, listen().url)

    assert made["id"]
    assert Configs(client).get(task, made["id"]) == made


@pytest.mark.parametrize("version", ["1.0", "0.3"])
def test_only_the_tenant_whose_task_it_is_can_configure_it(
    relay: Replicas, listen: Listen, start: StartService, version: Any
) -> None:
    mine, _ = relay.clients(version)
    settings = relay.here.runtime.settings
    assert settings.redis_url
    redis_url = settings.redis_url.get_secret_value()
    stranger = start({}, redis_url=redis_url, tenant=f"not-{settings.tenant}", flow="relay", **LOOPBACK)
    theirs = Client(stranger.http, version, "/a2a/relay")
    webhook, task = listen(), mine.send("ask")["id"]
    kept = Configs(mine).create(task, webhook.url, id="mine")

    for configs, named in ((Configs(theirs), task), (Configs(mine), f"{task[:-1]}x"), (Configs(mine), "none")):
        assert {
            code_of(configs.create, named, webhook.url, id="mine", token="other"),
            code_of(configs.get, named, "mine"),
            code_of(configs.list, named),
            code_of(configs.delete, named, "mine"),
        } == {-32001}
    assert Configs(mine).list(task) == [kept]


SENDING: dict[str, Callable[..., Any]] = {
    "waits": lambda client, **more: client.send("stream", **more),
    "goes": lambda client, **more: client.send("stream", returnImmediately=True, **more),
    "streams": lambda client, **more: list(client.stream("stream", **more)),
}


@pytest.mark.parametrize("sending", SENDING)
def test_a_client_of_1_0_is_told_each_status_and_artifact_in_order(
    relay: Replicas, obliging: Agent, listen: Listen, sending: str
) -> None:
    client, _ = relay.clients()
    webhook = listen()
    obliging.go_on(3)

    SENDING[sending](client, **wanting(client, webhook.url, token="a token", bearer="secret"))

    told = webhook.until("status-update completed")
    working = "status-update working"
    assert told == [working, working, "1-n one\ntwo\nthree", "status-update completed"]
    for seen in webhook.seen:
        assert (seen.target, seen.headers["content-type"]) == ("/hook", "application/json")
        assert seen.headers["x-a2a-notification-token"] == "a token"
        assert seen.headers["authorization"] == "Bearer secret"


@pytest.mark.parametrize("sending", SENDING)
def test_a_client_of_0_3_is_told_the_task(relay: Replicas, obliging: Agent, listen: Listen, sending: str) -> None:
    client, there = relay.clients("0.3")
    webhook = listen()
    obliging.go_on(3)

    SENDING[sending](client, **wanting(client, webhook.url, token="a token", bearer="secret"))

    assert webhook.until("task completed") == ["task completed"]
    (task,), (seen,) = webhook.told, webhook.seen
    assert task == there.get(task["id"])
    assert (seen.headers["x-a2a-notification-token"], seen.headers["authorization"]) == ("a token", "Bearer secret")


@pytest.mark.parametrize("version", ["1.0", "0.3"])
def test_the_replica_that_takes_the_turn_notifies_wherever_it_was_configured(
    relay: Replicas, listen: Listen, version: Any
) -> None:
    here, there = relay.clients(version)
    webhook = listen()
    task = here.send("ask", **wanting(here, webhook.url))["id"]
    of_version = "status-update" if version == "1.0" else "task"
    webhook.until(f"{of_version} input-required")

    there.send("well", task=task)

    last = webhook.until(f"{of_version} completed")[-1]
    assert last == f"{of_version} completed"
    if version == "0.3":
        assert webhook.told[-1] == here.get(task)


def test_a_turn_at_another_door_is_notified_of_too(relay: Replicas, listen: Listen) -> None:
    new, _ = relay.clients()
    old, _ = relay.clients("0.3")
    task, webhooks = new.send("ask", context="door")["id"], [listen(), listen()]
    for client, webhook in zip((new, old), webhooks, strict=True):
        Configs(client).create(task, webhook.url, id=client.version)

    assert relay.there.turn("door", "well").status_code == 200

    working, done = "status-update working", "status-update completed"
    assert webhooks[0].until(done) == [working, "2-answer thank you", done]
    assert webhooks[1].until("task completed") == ["task completed"]
    assert webhooks[1].told == [old.get(task)]


def test_what_is_configured_while_a_turn_runs_hears_how_it_ends(
    relay: Replicas, obliging: Agent, listen: Listen
) -> None:
    here, there = relay.clients()
    webhook = listen()
    task = here.send("stream", returnImmediately=True)["id"]
    Configs(there).create(task, webhook.url)
    obliging.go_on(3)

    assert webhook.until("status-update completed")[-2:] == ["1-n one\ntwo\nthree", "status-update completed"]


def test_a_cancel_is_notified_with_all_that_was_done(call: Service, listen: Listen) -> None:
    new, old, webhooks = Client(call.http), Client(call.http, "0.3"), [listen(), listen()]
    done = old.send("deliver", metadata={"intent": "greeting"})
    for client, webhook in zip((new, old), webhooks, strict=True):
        Configs(client).create(done["id"], webhook.url, id=client.version)

    canceled = old.cancel(done["id"])

    assert webhooks[0].until("status-update canceled") == ["status-update canceled"]
    assert webhooks[1].until("task canceled") == ["task canceled"]
    assert webhooks[1].told == [canceled]
    assert artifacts(canceled) == artifacts(done)
    assert roles_and_words(canceled)[0] == ("user", "deliver")


def test_a_webhook_that_is_down_is_told_later_and_in_order(relay: Replicas, listen: Listen) -> None:
    client, _ = relay.clients()
    webhook = listen(in_turn(DOWN, DOWN, FINE))

    client.send("ask", **wanting(client, webhook.url))

    told = webhook.until("status-update input-required")
    assert told == [*["status-update working"] * 3, "status-update input-required"]
    assert webhook.told[0] == webhook.told[1] == webhook.told[2]


def test_a_notification_that_waits_is_sent_as_is_configured_by_then(call: Service, listen: Listen) -> None:
    client, busy = Client(call.http), answers("", 503, retry_after="1")
    configs, task = Configs(client), client.send("ask", metadata={"intent": "greeting"})["id"]
    deleted, moved, new = listen(busy), listen(busy), listen()
    configs.create(task, deleted.url, id="deleted")
    configs.create(task, moved.url, id="moved")

    client.send("well", task=task, metadata={"intent": "greeting"})
    for webhook in (deleted, moved):
        webhook.until("status-update working")
    configs.delete(task, "deleted")
    configs.create(task, new.url, id="moved", token="new")

    assert new.until("status-update input-required")[0] == "status-update working"
    assert new.seen[0].headers["x-a2a-notification-token"] == "new"
    assert (len(deleted.seen), len(moved.seen)) == (1, 1)


def test_a_deleted_call_takes_its_configurations_along(relay: Replicas, listen: Listen) -> None:
    here, there = relay.clients()
    webhook = listen()
    task = here.send("ask", context="short", **wanting(here, webhook.url))["id"]
    before = webhook.until("status-update input-required")
    assert relay.here.http.delete("/session/short").status_code == 200
    assert code_of(Configs(there).list, task) == -32001

    namesake = there.send("ask", context="short")["id"]
    assert Configs(here).list(namesake) == []
    later = listen()
    here.send("well", task=namesake, **wanting(here, later.url))
    later.until("status-update completed")
    assert len(webhook.seen) == len(before)


INSIDE = (
    "http://127.0.0.1:9/",
    "http://localhost/",
    "http://10.0.0.7/",
    "http://[::1]/",
    "http://169.254.169.254/latest",
)


@pytest.mark.parametrize("version", ["1.0", "0.3"])
def test_only_public_addresses_are_notified_unless_a_setting_allows_others(
    start: StartService, obliging: Agent, listen: Listen, version: Any
) -> None:
    env = {"RELAY_AGENT_URL": obliging.polite.url}
    service = start(env, flow="relay", checkpointer="memory")
    client, webhook = Client(service.http, version, "/a2a/relay"), listen()
    task = client.send("ask", context="guarded")["id"]

    for url in (*INSIDE, webhook.url, "file:///etc/passwd", "http://user:secret@93.184.215.14/", ""):
        assert code_of(Configs(client).create, task, url) == -32602, url
        assert code_of(client.send, "well", task=task, **wanting(client, url)) == -32602, url
        assert code_of(client.send, "ask", context="none", **wanting(client, url)) == -32602, url
    for url, why in (
        (INSIDE[0], "the address of '127.0.0.1' is not public; only the service's FLOWS_PUSH_ALLOW can allow it"),
        ("file:///etc/passwd", "its scheme is 'file'; only http and https are reached"),
    ):
        with pytest.raises(RpcError, match=f"notifications cannot be sent to this URL: {why}"):
            Configs(client).create(task, url)

    assert Configs(client).list(task) == []
    assert (state_of(client.get(task)), webhook.seen) == ("input-required", [])
    assert service.http.get("/session/none").status_code == 404
    assert Configs(client).create(task, "https://93.184.215.14/hook")["url"] == "https://93.184.215.14/hook"


def code_of(ask: Callable[..., Any], *arguments: Any, **named: Any) -> int:
    """The code with which this is refused."""
    with pytest.raises(RpcError) as refused:
        ask(*arguments, **named)
    return refused.value.code
