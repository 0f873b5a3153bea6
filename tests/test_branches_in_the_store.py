"""Stages that run at once: all their steps are committed, on every store, and the call stands where they left it."""

import asyncio
from pathlib import Path

from graph.loader import load_flow
from tests.desk import Place, assert_expiring, thread

AGENTS = 'agents: {a: {url: "http://a"}, b: {url: "http://b"}, c: {url: "http://c"}}'
CALL = f"""\
flow: both
waits_for: caller
{AGENTS}
stages:
  ask: {{parallel: {{one: {{agent: a}}, other: {{agent: b}}}}}}
  bye: {{agent: c}}
"""
RUN = f"""\
flow: joined
{AGENTS}
stages:
  one: {{agent: a, needs: []}}
  other: {{agent: b, needs: []}}
  last: {{agent: c, needs: [one, other]}}
"""


def test_a_caller_hears_of_all_branches_in_one_turn(place: Place, tmp_path: Path) -> None:
    (tmp_path / "flow.yaml").write_text(CALL)
    flow = load_flow(tmp_path / "flow.yaml", {})

    async def story() -> None:
        async with place.desk(flow=flow) as desk:
            assert (await desk.turn("C"))["next_flow_id"] == 2
            record = await desk.store.calls.read(thread("C"))
            assert record
            made = [(step["number"], step["stage"], step.get("branch")) for step in record.steps]
            assert made == [(1, "ask", "one"), (2, "ask", "other"), (3, "ask", None)]
            assert (record.state["stage"], record.opened) == ("bye", None)
            assert await desk.store.calls.on_versions("t") == {f"both {flow.digest}": 1}
            told = await desk.turn("C")
            assert (told["step"], told["is_complete"]) == (4, True)

    asyncio.run(story())
    assert_expiring(place)


def test_stages_that_need_each_other_are_all_committed(place: Place, tmp_path: Path) -> None:
    (tmp_path / "flow.yaml").write_text(RUN)
    flow = load_flow(tmp_path / "flow.yaml", {})

    async def story() -> None:
        async with place.desk(flow=flow) as desk:
            told = await desk.turn("R")
            assert (told["stage"], told["is_complete"]) == ("last", True)
            assert [step["stage"] for step in told["session_summary"]["steps"]] == ["one", "other", "last"]
            assert await desk.steps("R") == [1, 2, 3]
            assert await desk.store.calls.on_versions("t") == {}

    asyncio.run(story())
    assert_expiring(place)
