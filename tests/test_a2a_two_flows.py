"""Two flows, of one service or of two on one store: neither knows the tasks of the other."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.a2a_client import Client, RpcError, state_of
from tests.conftest import StartService
from tests.replicas import Agent
from tests.webhooks import Configs

STORES = ["valkey", "langgraph-redis"]


@pytest.fixture(params=[(store, of) for store in STORES for of in ("one", "two")], ids="-".join)
def services(request: pytest.FixtureRequest, start: StartService, polite: Agent) -> dict[str, Client]:
    """A call flow and a relay, whose agent asks back if it is told to; of one service, or of two."""
    server, of = request.param
    url = request.getfixturevalue("valkey_url" if server == "valkey" else "redis_stack_url")
    store = {"redis_url": url, "tenant": f"t{abs(hash(request.node.nodeid)) % 10**12}", "push_allow": ("127.0.0.1",)}
    urls = {"RELAY_AGENT_URL": polite.polite.url, "GREETING_AGENT_URL": polite.polite.url}
    both = start(urls, flows=("relay",), **store) if of == "one" else None
    served = {name: both or start(urls, flow=name, **store) for name in ("call", "relay")}
    return {name: Client(service.http, path=f"/a2a/{name}") for name, service in served.items()}


@pytest.mark.parametrize(("mine", "other"), [("call", "relay"), ("relay", "call")])
def test_a_task_of_another_flow_is_none(services: dict[str, Client], mine: str, other: str) -> None:
    task = services[mine].send("ask", metadata={"intent": "greeting"} if mine == "call" else None)
    stranger = services[other]
    named = task["id"]
    asked: list[Callable[[], Any]] = [
        lambda: stranger.get(named),
        lambda: stranger.cancel(named),
        lambda: next(stranger.subscribe(named)),
        lambda: stranger.send("well", task=named),
        lambda: Configs(stranger).create(named, "http://127.0.0.1:1/hook"),
        lambda: Configs(stranger).list(named),
        lambda: Configs(Client(stranger.http, "0.3", stranger.path)).get(named, None),
    ]

    for ask in asked:
        with pytest.raises(RpcError) as refused:
            ask()
        assert refused.value.code == -32001

    assert services[mine].get(named) == task


def test_each_lists_its_own_tasks(services: dict[str, Client]) -> None:
    asked = {
        flow: [services[flow].send("ask", metadata={"intent": "greeting"} if flow == "call" else None) for _ in "123"]
        for flow in services
    }

    for flow, client in services.items():
        first = client.list(pageSize=2)
        rest = client.list(pageSize=2, pageToken=first["nextPageToken"])
        listed = [task["id"] for task in first["tasks"] + rest["tasks"]]
        assert listed == [task["id"] for task in reversed(asked[flow])]
        assert (first["totalSize"], rest["totalSize"], rest["nextPageToken"]) == (3, 3, "")


def test_a_message_that_another_flow_has_answered_is_not_answered_with_its_task(services: dict[str, Client]) -> None:
    services["relay"].send("ask", context="C", message_id="m")

    with pytest.raises(RpcError) as refused:
        services["call"].send("ask", context="C", message_id="m")

    assert refused.value.code == -32001
    assert state_of(services["relay"].send("ask", context="C", message_id="m")) == "input-required"
