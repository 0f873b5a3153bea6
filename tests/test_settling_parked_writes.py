"""What becomes of parked writes in the less usual places: all of them can be settled, each once."""

import asyncio

from graph.loader import parse_flow
from graph.store.effects import TurnEffects, unsaid
from graph.store.errors import OutcomeUnknown
from nodes.ports import AgentRequest, Effect, Reply
from nodes.remote.errors import Disconnected
from server.resolving import resolution_of
from server.turn import TurnRequest
from tests.desk import Agents, Desk, Place, thread

BOTH = """
flow: both
agents: {one: {url: "http://one"}, two: {url: "http://two"}}
stages:
  pay: {agent: one, effect: write, needs: []}
  book: {agent: two, effect: write, needs: []}
"""


async def lost(request: AgentRequest) -> None:
    raise Disconnected(request.agent, "the wire broke")


async def names(desk: Desk) -> list[str]:
    return [record.parked or "" for _, record in await desk.turns.parked()]


async def settle(desk: Desk, name: str) -> str:
    told = await desk.turns.resolve(resolution_of(name, "done", "jo", "the ledger", Reply("it was done")))
    return told.step["resolution"]["parked"]


def test_two_at_stages_that_run_at_once_are_settled_one_by_one(place: Place) -> None:
    async def story() -> None:
        agents = Agents({"one": lost, "two": lost})
        async with place.desk(agents, flow=parse_flow(BOTH, "both.yaml", {})) as desk:
            try:
                await desk.turns.run(TurnRequest("C", "ACC", "ECI", "go", key="K"))
            except OutcomeUnknown as unknown:
                first, second = unknown.parked
            assert [await settle(desk, first), await settle(desk, second)] == [first, second]
            assert (await names(desk), sorted(agents.heard)) == ([], ["one", "two"])  # they are asked at once
            answer = await desk.turns.run(TurnRequest("C", "ACC", "ECI", "go", key="K"))
            assert (answer["status"], answer["is_complete"]) == ("success", True)

    asyncio.run(story())


def test_one_of_a_first_turn_that_saved_nothing_is_listed_and_settled(place: Place) -> None:
    async def story() -> None:
        async with place.desk() as desk:
            turn = await desk.begin("C", said={"input_message": "refund me", "flow": "call"})
            effect = Effect(
                "m-1", "refund", "fulfillment", "fulfillment", "process_refund", "x", None, "h", "now", 0, 1
            )
            await TurnEffects(turn).sending(effect)
            await desk.store.calls.settle(turn, unsaid(turn))
            await desk.store.calls.abandon(turn)
            [name] = await names(desk)
            assert await settle(desk, name) == name
            assert (await names(desk), await desk.steps("C")) == ([], [1])
            assert await desk.store.calls.delete(thread("C"))

    asyncio.run(story())
