"""A version whose share of errors exceeds that of the others by more than its flow allows gets no more calls."""

import json
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest
from structlog.testing import capture_logs

from nodes.reaching.versions import AT_LEAST
from server.turning_down import SETTLING_SECONDS, TurningDown
from tests.background import Background
from tests.conftest import Service, StartService
from tests.desk import eventually
from tests.rough_agents import Seen, http, rough_agent, says

FLOW = """
flow: desk
waits_for: caller
agents:
  worker:
    versions:
      v1: {{url: "{well}", weight: 50}}
      v2: {{url: "{ill}", weight: 50}}
    error_margin: 0.2
  patient:
    versions:
      v1: {{url: "{well}"}}
      v2: {{url: "{ill}"}}
  crew: {{type: hands, error_margin: 0.2}}
stages:
  ask: {{intents: {{ask: worker, wait: patient, lend: crew}}}}
  bye: {{agent: worker}}
fallback: patient
"""
BAD = {"v1": [40, 2], "v2": [40, 20]}
WHY = "'v2' failed 20 of 40 calls (50%), 'v1' failed 2 of 40 calls (5%); the margin is 20%"


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


async def fails(seen: Seen) -> AsyncIterator[bytes]:
    """Answer a task that failed."""
    task = {"kind": "task", "id": "t", "contextId": "c", "status": {"state": "failed"}}
    yield http(json.dumps({"jsonrpc": "2.0", "id": seen.rpc["id"], "result": task}))


@pytest.fixture(scope="module")
def flow(background: Background, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A flow with an agent whose second version fails whatever it is given."""
    well, ill = background.open(rough_agent(says("done"))), background.open(rough_agent(fails))
    file = tmp_path_factory.mktemp("flow") / "desk.yaml"
    file.write_text(FLOW.format(well=well.url, ill=ill.url))
    return str(file)


@pytest.fixture
def desk(start: StartService, flow: str) -> Service:
    return start(checkpointer="memory", flow=flow)


def agent(service: Service, name: str) -> dict[str, Any]:
    return dict(service.http.get(f"/agents/{name}").raise_for_status().json())


def weights(service: Service, name: str) -> dict[str, float | None]:
    return {one["version"]: one["weight"] for one in agent(service, name)["versions"]}


def weigh(service: Service, name: str, **weights: float) -> None:
    body = {"weights": weights, "by": "jo", "why": "a try"}
    service.http.put(f"/agents/{name}/weights", json=body).raise_for_status()


def happened(service: Service, name: str) -> list[tuple[str, str, str]]:
    return [(one["what"], one["by"], one["why"]) for one in agent(service, name)["history"]]


async def judged(judge: TurningDown, clock: Clock, **counts: Any) -> None:
    """Let a judge look at counts that are new to it, and once the weights have settled."""
    await judge.look(counts)
    clock.now += SETTLING_SECONDS
    await judge.look(counts)


def test_a_version_that_fails_its_tasks_is_turned_down_until_a_person_weighs_anew(
    desk: Service, background: Background
) -> None:
    async def look() -> float | None:
        return desk.runtime.agents.weights(desk.runtime.agents.find("worker")).get("v2")

    statuses: Counter[str] = Counter()
    with capture_logs() as lines:
        while min(statuses["success"], statuses["error"]) < AT_LEAST:
            statuses[desk.turn(f"C-{statuses.total()}", "hello", "ask").json()["status"]] += 1
        background.run(eventually(look, 0))
    later = {desk.turn(f"D-{number}", "hello", "ask").json()["status"] for number in range(20)}

    assert later == {"success"}
    assert weights(desk, "worker") == {"v1": 50, "v2": 0}
    (turned_down,) = happened(desk, "worker")
    assert turned_down[:2] == ("turned_down", "orchestrator")
    assert turned_down[2].startswith("'v2' failed ")
    (line,) = [line for line in lines if line["event"] == "version turned down"]
    known = {"event": "version turned down", "log_level": "warning", "agent": "worker", "version": "v2"}
    assert line == {**known, "reason": turned_down[2]}

    weigh(desk, "worker", v1=50, v2=50)
    assert weights(desk, "worker") == {"v1": 50, "v2": 50}
    assert happened(desk, "worker") == [("weights", "jo", "a try"), turned_down]


def test_the_first_of_two_replicas_does_it(
    start: StartService, flow: str, valkey_url: str, background: Background
) -> None:
    one, other = (start(redis_url=valkey_url, tenant="turning-down", flow=flow) for _ in range(2))
    clocks = Clock(), Clock()

    async def story() -> None:
        first, second = (
            TurningDown(service.runtime.agents, clock) for service, clock in zip((one, other), clocks, strict=True)
        )
        await second.look({"worker": BAD})
        await judged(first, clocks[0], worker=BAD)
        clocks[1].now += SETTLING_SECONDS
        await second.look({"worker": BAD})

    background.run(story())
    assert weights(other, "worker") == {"v1": 50, "v2": 0}
    assert happened(one, "worker") == happened(other, "worker") == [("turned_down", "orchestrator", WHY)]


def test_without_a_margin_no_version_is_turned_down(desk: Service, background: Background) -> None:
    clock = Clock()
    background.run(judged(TurningDown(desk.runtime.agents, clock), clock, patient=BAD, unheard_of=BAD))
    assert (weights(desk, "patient"), happened(desk, "patient")) == ({"v1": 1, "v2": 1}, [])


def test_the_last_version_that_gets_calls_keeps_them(desk: Service, background: Background) -> None:
    weigh(desk, "worker", v1=0, v2=1)
    clock = Clock()
    background.run(judged(TurningDown(desk.runtime.agents, clock), clock, worker=BAD))
    assert weights(desk, "worker") == {"v1": 0, "v2": 1}


def test_new_weights_are_given_time_before_a_version_is_judged_again(desk: Service, background: Background) -> None:
    clock = Clock()
    judge = TurningDown(desk.runtime.agents, clock)
    background.run(judged(judge, clock, worker=BAD))
    weigh(desk, "worker", v1=1, v2=1)
    background.run(judge.look({"worker": BAD}))
    in_time = weights(desk, "worker")
    background.run(judged(judge, clock, worker=BAD))
    assert (in_time, weights(desk, "worker")) == ({"v1": 1, "v2": 1}, {"v1": 1, "v2": 0})


def test_versions_that_only_registered_share_what_the_worst_does_not_get(
    desk: Service, background: Background
) -> None:
    for port, version in enumerate(("v1", "v2", "v3"), 1):
        body = {"name": f"hands-{port}", "agent_type": "hands", "capabilities": [], "version": version}
        desk.http.post("/agents/register", json={**body, "url": f"http://127.0.0.1:{port}"}).raise_for_status()
    clock = Clock()
    counts = {**BAD, "v3": [40, 0]}
    background.run(judged(TurningDown(desk.runtime.agents, clock), clock, crew=counts))
    assert weights(desk, "crew") == {"v1": 1, "v2": 0, "v3": 1}
