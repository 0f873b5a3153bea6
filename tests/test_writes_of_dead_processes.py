"""Services that are killed while their agents are at work on writes: whether the client comes back, says something
else, or never comes, the agent is asked what it did, or sent the very message if it acts once on it, or a person is
asked. Nothing is done twice."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.a2a_client import RpcError, answer_of, state_of
from tests.background import Background
from tests.conftest import Service, StartService
from tests.dead_services import (
    KINDS,
    Scene,
    execution,
    killed_services,
    outcomes,
    parked_in,
    settle,
    steps_of,
    until,
)
from tests.puppet import Puppet


@pytest.fixture(scope="module")
def scene(
    background: Background,
    start_for_module: StartService,
    valkey_url: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Scene]:
    place = tmp_path_factory.mktemp("dead")
    with killed_services(background, start_for_module, place, valkey_url) as left:
        yield left


@pytest.mark.parametrize("flow", ["till", "kiosk"])
@pytest.mark.parametrize("kind", ["askable", "idempotent"])
def test_the_same_message_is_answered_with_what_was_done(scene: Scene, flow: str, kind: str) -> None:
    call = f"same-{flow}-{kind}"

    told, again = scene.again(call), scene.again(call)

    [effect] = scene.did(call)
    assert (answer_of(told), state_of(told)) == (f"receipt {effect.receipt}", "input-required")
    assert again == told
    assert outcomes(scene.steps(call)) == ["success"] * (2 if flow == "till" else 1)
    assert scene.steps(call)[-1]["message_id"] == effect.message_id
    assert (scene.parked(call), scene.expires(call)) == ([], True)


@pytest.mark.parametrize("flow", ["till", "kiosk"])
def test_the_same_message_waits_for_a_person_where_nobody_can_be_asked(scene: Scene, flow: str) -> None:
    call = f"same-{flow}-forgetful"

    for _ in range(2):
        with pytest.raises(RpcError, match="not known what came of a write"):
            scene.again(call)
    [name], lives = scene.parked(call), not scene.expires(call)
    settle(scene.http, name, "done", response="so says the ledger")
    told = scene.again(call)

    [effect] = scene.did(call)
    assert lives
    assert answer_of(told) == "so says the ledger"
    assert outcomes(scene.steps(call))[-2:] == ["parked", "success"]
    assert [step["message_id"] for step in scene.steps(call)[-2:]] == [effect.message_id] * 2
    assert (scene.parked(call), scene.expires(call)) == ([], True)


def test_what_a_person_says_was_not_done_is_done_then(scene: Scene) -> None:
    with pytest.raises(RpcError):
        scene.again("denied")
    [name] = scene.parked("denied")
    settle(scene.http, name, "not_done")

    told = scene.again("denied")

    before, after = scene.did("denied")
    assert (before.message_id != after.message_id, answer_of(told)) == (True, f"receipt {after.receipt}")
    assert outcomes(scene.steps("denied")) == ["success", "parked", "error", "success"]


@pytest.mark.parametrize("kind", KINDS)
def test_another_message_comes_after_what_was_under_way(scene: Scene, kind: str) -> None:
    call = f"other-{kind}"

    told = scene.say(call, "what now?", "unknown")

    steps, [effect] = scene.steps(call), scene.did(call)
    assert answer_of(told) == "you said what now?"
    assert outcomes(steps) == ["success", "parked" if kind == "forgetful" else "success", "success"]
    assert (steps[1]["message_id"], steps[1]["input_message"]) == (effect.message_id, "pay")
    assert steps[2]["input_message"] == "what now?"
    if kind == "forgetful":
        with pytest.raises(RpcError, match="not known what came of a write"):
            scene.say(call, "pay something else", "refund")
        [name] = scene.parked(call)
        assert steps[1]["parked"] == name
    else:
        assert scene.again(call)["metadata"]["stage"] == "close"
    assert len(scene.did(call)) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_message_without_a_name_is_known_by_what_it_says(scene: Scene, kind: str) -> None:
    call = f"keyless-{kind}"

    told = scene.again(call)

    [effect] = scene.did(call)
    if kind == "forgetful":
        assert (told["type"], [told["parked"]]) == ("outcome-unknown", scene.parked(call))
    else:
        assert told["response"]["text"] == f"receipt {effect.receipt}"


@pytest.mark.parametrize("flow", ["till", "kiosk"])
@pytest.mark.parametrize("kind", KINDS)
def test_nobody_comes_back(scene: Scene, flow: str, kind: str) -> None:
    call, number = f"never-{flow}-{kind}", 2 if flow == "till" else 1

    until(lambda: len(steps_of(scene.swept, call)) == number)

    *_, step = steps_of(scene.swept, call)
    [effect] = scene.did(call)
    assert step["message_id"] == effect.message_id
    if kind == "forgetful":
        assert [step["parked"]] == parked_in(scene.swept, call)
        assert step["response_data"]["error"]["outcome"] == "unknown"
    else:
        assert step["response_data"]["text"] == f"receipt {effect.receipt}"


@pytest.mark.parametrize("kind", KINDS)
def test_a_flow_that_goes_by_itself_goes_on_by_itself(scene: Scene, kind: str) -> None:
    call = f"order-{kind}"
    stands = "waiting" if kind == "forgetful" else "completed"

    until(lambda: execution(scene.swept, call)["status"] == stands)

    assert len(scene.did(call)) == 1
    if kind == "forgetful":
        told = execution(scene.swept, call)
        assert told["parked"] == parked_in(scene.swept, call)
        settle(scene.swept, told["parked"][0], "done")
        until(lambda: execution(scene.swept, call)["status"] == "completed")
    assert [step["stage"] for step in steps_of(scene.swept, call) if "parked" not in step] == ["look", "pay", "tell"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_is_asked_for_again_goes_on(scene: Scene, kind: str) -> None:
    call = f"run-{kind}"

    told = scene.again(call)

    [effect] = scene.did(call)
    if kind == "forgetful":
        assert [told["parked"]] == scene.parked(call)
        settle(scene.http, told["parked"], "done", response=f"receipt {effect.receipt}")
        until(lambda: execution(scene.http, call)["status"] == "completed")
    steps = {step["stage"]: step for step in scene.steps(call)}
    assert (list(steps), steps["pay"]["response_data"]["text"]) == (
        ["look", "pay", "tell"],
        f"receipt {effect.receipt}",
    )


def test_each_branch_is_known_by_itself(scene: Scene) -> None:
    with pytest.raises(RpcError):
        scene.again("both")
    [name] = scene.parked("both")
    settle(scene.http, name, "done", response="by hand")

    told = scene.again("both")

    asked, forgotten = sorted(scene.did("both"), key=lambda effect: effect.agent)
    assert told["metadata"]["stage"] == "close"
    steps = [step for step in scene.steps("both") if "branch" in step]
    assert [(step["branch"], step["message_id"]) for step in steps] == [
        ("one", asked.message_id),
        ("two", forgotten.message_id),
        ("two", forgotten.message_id),
    ]
    assert steps[0]["response_data"]["text"] == f"receipt {asked.receipt}"
    assert steps[2]["response_data"]["text"] == "by hand"


@pytest.mark.parametrize("kind", ["askable", "idempotent"])
def test_each_item_of_a_list_is_known_by_itself(scene: Scene, kind: str) -> None:
    """Two of three had been answered when the service died, but nothing of that was saved."""
    call = f"each-{kind}"

    until(lambda: execution(scene.swept, call)["status"] == "completed")

    effects = scene.did(call)
    assert len(effects) == len({effect.message_id for effect in effects}) == 3
    items = [step for step in steps_of(scene.swept, call) if "branch" in step]
    assert {step["message_id"] for step in items} == {effect.message_id for effect in effects}


def test_a_stage_goes_on_once_all_of_its_items_are_settled(scene: Scene) -> None:
    call = "each-forgetful"
    until(lambda: len(parked_in(scene.swept, call)) == 3)
    first, second, third = execution(scene.swept, call)["parked"]

    told = [settle(scene.swept, name, "done", response=name)["step"] for name in (first, second, third)]

    assert [step["resolution"]["parked"] for step in told] == [first, second, third]
    until(lambda: execution(scene.swept, call)["status"] == "completed")
    assert (parked_in(scene.swept, call), len(scene.did(call))) == ([], 3)


@pytest.mark.parametrize("kind", ["askable", "forgetful"])
def test_a_commit_that_was_never_made(scene: Scene, kind: str) -> None:
    call = f"swallow-{kind}"

    if kind == "forgetful":
        with pytest.raises(RpcError):
            scene.again(call)
        assert outcomes(scene.steps(call)) == ["success", "parked"]
    else:
        assert answer_of(scene.again(call)) == f"receipt {scene.did(call)[0].receipt}"
    assert len(scene.did(call)) == 1


@pytest.mark.parametrize("kind", ["askable", "forgetful"])
def test_a_commit_that_was_made_and_not_heard_of(scene: Scene, kind: str) -> None:
    call = f"deafen-{kind}"

    told = scene.again(call)

    [effect] = scene.did(call)
    assert answer_of(told) == f"receipt {effect.receipt}"
    assert outcomes(scene.steps(call)) == ["success", "success"]
    assert (scene.parked(call), scene.expires(call)) == ([], True)


# What is not parked, and how long it is kept what is


@pytest.fixture
def shop(start: StartService, puppet: tuple[Puppet, str], tmp_path: Path, request: pytest.FixtureRequest) -> Service:
    """A service with an agent that is down, one that is down and has a fallback, and one that does what it is told;
    its calls are kept for a second."""
    (tmp_path / "shop.yaml").write_text(SHOP.format(url=puppet[1]))
    store = {"redis_url": request.getfixturevalue("valkey_url"), "tenant": f"t{abs(hash(request.node.nodeid))}"}
    return start(flow=str(tmp_path / "shop.yaml"), agent_timeout_seconds=0.3, session_ttl_seconds=1, **store)


SHOP = """
flow: shop
waits_for: caller
agents:
  down: {{url: "http://127.0.0.1:9"}}
  frail: {{url: "http://127.0.0.1:9", fallback: desk}}
  desk: {{url: "{url}"}}
stages:
  pay: {{intents: {{pay_down: down, pay_frail: frail, pay: desk}}, effect: write}}
  close: {{intents: {{bye: desk}}}}
fallback: desk
"""


def test_what_never_reached_an_agent_is_not_parked(shop: Service, puppet: tuple[Puppet, str]) -> None:
    refused = [shop.turn("C", "pay", "pay_down").json() for _ in range(2)]
    parked = (parked_in(shop.http, "C"), shop.http.get("/session/C").json()["parked"])
    paid = shop.turn("C", "pay", "pay_frail").json()

    errors = [told["response"]["error"] for told in refused]
    assert [(error["type"], error["retryable"], "outcome" in error) for error in errors] == [
        ("unreachable", True, False)
    ] * 2
    assert parked == ([], [])
    assert (paid["status"], paid["agent"], len(puppet[0].messages)) == ("success", "desk", 1)
    assert shop.http.delete("/session/C").status_code == 200


def test_a_call_with_a_parked_write_is_kept_until_that_is_settled(shop: Service) -> None:
    name = shop.turn("C", "slow 0.6", "pay").json()["parked"]
    shop.turn("other", "pay", "pay")

    until(lambda: is_gone(shop, "other"))
    kept = shop.http.get("/session/C").json()
    settle(shop.http, name, "done")

    assert kept["parked"] == [name]
    until(lambda: is_gone(shop, "C"))
    assert shop.http.get("/parked").json() == {"parked": []}


def is_gone(shop: Service, call: str) -> bool:
    return shop.http.get(f"/session/{call}").status_code == 404
