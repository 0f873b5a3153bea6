"""The registry of agents as the store keeps it: instances that come and go, switches, weights, who is busy where."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from graph.store.registry import MOST_ENDPOINTS, MOST_SETTINGS, Registry, RegistryFull, Report
from graph.store.registry_scripts import HISTORY
from nodes.reaching.records import Happening, News, Off, Registered, Weights
from tests.desk import Place, lives, losing_answers

OFF = Off("ada", "it pays twice", "2026-01-01T00:00:00.000+00:00")
HALVES = Weights({"v1": 1.0, "v2": 1.5}, "ada", "a try", "2026-01-01T00:00:00.000+00:00")
NOTHING = Report(loads={}, versions={})


def instance(name: str = "refund-1", **more: str) -> Registered:
    skill = {"name": "refund", "input_types": ["text"], "output_types": ["json"]}
    given = {"agent_type": "refund", "url": f"http://{name}:80", "version": None, **more}
    return Registered(
        name,
        capabilities=(skill,),
        dialect=None,
        registered_at="2026-01-01T00:00:00+00:00",
        expires_at=None,
        by_card=False,
        card_url=None,
        **given,  # type: ignore[arg-type]
    )


def busy(**loads: int) -> Report:
    return Report(loads=loads, versions={})


def run(place: Place, story: Callable[[Registry], Awaitable[None]], *, url: str | None = None) -> None:
    async def open_and_tell() -> None:
        async with place.open(url=url) as store:
            await story(store.registry("t"))

    asyncio.run(open_and_tell())


async def told(registry: Registry) -> list[tuple[str, str]]:
    return [(one.agent, one.what) for one in await registry.history()]


def test_an_instance_registers_and_stays_as_long_as_its_heart_beats(place: Place) -> None:
    async def story(registry: Registry) -> None:
        came = await registry.register(instance(), 60, 10)
        assert came.expires_at is not None
        assert 55 < came.expires_at - time.time() < 65
        assert replace(came, expires_at=None) == instance()
        assert await registry.get("refund-1") == came
        later = await registry.heartbeat("refund-1", 600)
        assert later is not None
        assert later.expires_at is not None
        assert later.expires_at > came.expires_at + 500
        assert later == await registry.get("refund-1")
        assert (await registry.all()) == News(registered=(later,))
        assert await registry.heartbeat("refund-1", 0) is not None
        assert await registry.heartbeat("refund-1") is None
        assert await registry.get("refund-1") is None
        assert await told(registry) == [("refund-1", "expired"), ("refund-1", "registered")]

    run(place, story)


def test_an_instance_that_nobody_hears_of_is_forgotten_once_by_whoever_looks_first(place: Place) -> None:
    async def story(registry: Registry) -> None:
        before = await registry.sync("one", NOTHING)
        await registry.register(instance(version="v2"), 0, 10)
        first = await registry.sync("one", NOTHING, before.revision)
        second = await registry.sync("two", NOTHING, before.revision)
        assert first.news == second.news == News()
        gone = (await registry.history())[0]
        assert (gone.what, gone.by, gone.why) == ("expired", "registry", "no heartbeat for 0 s")
        assert gone.details == {"agent_type": "refund", "url": "http://refund-1:80", "version": "v2"}
        assert len(await registry.history()) == 2

    run(place, story)


def test_the_same_name_again_takes_the_others_place_and_the_very_same_is_a_heartbeat(place: Place) -> None:
    async def story(registry: Registry) -> None:
        first = await registry.register(instance(), 60, 1)
        known = (await registry.sync("one", NOTHING)).revision
        same = await registry.register(replace(instance(), registered_at="later"), 600, 1)
        assert same.registered_at == first.registered_at
        assert (await registry.sync("one", NOTHING, known)).news is None
        moved = await registry.register(instance(url="http://elsewhere"), None, 1)
        assert moved.expires_at is None
        assert (await registry.sync("one", NOTHING, known)).news == News(registered=(moved,))
        assert len(await registry.history()) == 2

    run(place, story)


def test_no_more_are_registered_than_may_be_and_those_that_are_gone_do_not_count(place: Place) -> None:
    async def story(registry: Registry) -> None:
        await registry.register(instance("a"), 60, 2)
        await registry.register(instance("b"), 60, 2)
        with pytest.raises(RegistryFull, match="2 agents are registered already"):
            await registry.register(instance("c"), 60, 2)
        await registry.register(instance("a", url="http://moved"), 60, 2)
        await registry.heartbeat("b", 0)
        await registry.register(instance("c"), 60, 2)
        assert [one.name for one in (await registry.all()).registered] == ["a", "c"]

    run(place, story)


def test_an_instance_is_taken_away(place: Place) -> None:
    async def story(registry: Registry) -> None:
        await registry.register(instance(), 60, 10)
        assert await registry.remove("refund-1", "ada", "replaced")
        assert not await registry.remove("refund-1")
        assert await registry.all() == News()
        last = (await registry.history("refund"))[0]  # found by its type, too
        assert (last.agent, last.what, last.by, last.why) == ("refund-1", "removed", "ada", "replaced")

    run(place, story)


def test_an_agent_is_switched_off_and_on_and_weighed_and_all_replicas_hear_it(place: Place) -> None:
    async def story(registry: Registry) -> None:
        await registry.switch_off("refund", OFF)
        await registry.weigh("billing", HALVES)
        heard = await registry.sync("one", NOTHING)
        assert heard.news == News(off={"refund": OFF}, weights={"billing": HALVES})
        assert (await registry.sync("two", NOTHING, heard.revision)).news is None
        assert await registry.switch_on("refund", "bob", "mended")
        assert not await registry.switch_on("refund", "bob", "mended")
        assert await registry.unweigh("billing", "bob", "enough")
        assert not await registry.unweigh("billing", "bob", "enough")
        assert (await registry.sync("two", NOTHING, heard.revision)).news == News()
        assert [(one.what, one.by, one.why) for one in await registry.history("refund")] == [
            ("on", "bob", "mended"),
            ("off", "ada", "it pays twice"),
        ]
        shared_out = (await registry.history("billing"))[-1]
        assert shared_out == Happening(HALVES.at, "billing", "weights", "ada", "a try", {"weights": HALVES.weights})

    run(place, story)


def test_replicas_hear_what_the_others_have_in_flight(place: Place) -> None:
    async def story(registry: Registry) -> None:
        await registry.sync("one", busy(a=3, b=1))
        assert (await registry.sync("two", busy(a=2, c=5))).loads == {"a": 3, "b": 1}
        assert (await registry.sync("one", busy(b=4))).loads == {"a": 2, "c": 5}
        assert (await registry.sync("three", busy(c=0))).loads == {"a": 2, "b": 4, "c": 5}
        await registry.leave("two")
        assert (await registry.sync("three", NOTHING)).loads == {"b": 4}

    run(place, story)


def test_calls_and_errors_of_versions_are_summed_over_all_replicas(place: Place) -> None:
    async def story(registry: Registry) -> None:
        await registry.sync("one", Report(loads={}, versions={"refund": {"v1": (10, 1), "v2": (5, 5)}}))
        report = Report(loads={}, versions={"refund": {"v1": (2, 0)}, "billing": {"v1": (1, 0)}})
        both = {"refund": {"v1": [12, 1], "v2": [5, 5]}, "billing": {"v1": [1, 0]}}
        assert (await registry.sync("two", report)).versions == both
        await registry.sync("one", NOTHING)
        assert (await registry.sync("two", report)).versions == {"refund": {"v1": [2, 0]}, "billing": {"v1": [1, 0]}}

    run(place, story)


def test_load_is_kept_in_a_sorted_set_and_a_silent_replica_is_dropped(shared: Place) -> None:
    stem = "flows:{agents:t}:"

    async def story(registry: Registry) -> None:
        await registry.sync("one", busy(a=3, b=1))
        await registry.sync("two", busy(a=2))
        with shared.admin() as redis:
            assert redis.zrange(f"{stem}load", 0, -1, withscores=True) == [(b"b", 1.0), (b"a", 5.0)]
            redis.zadd(f"{stem}heard", {"one": 1})
            await registry.sync("two", busy(a=2))
            assert redis.zrange(f"{stem}load", 0, -1, withscores=True) == [(b"a", 2.0)]
            assert redis.hkeys(f"{stem}reports") == [b"two"]
        ends = lives(shared, [f"{stem}{part}" for part in ("load", "reports", "heard")])
        assert all(0 < left <= 60 for left in ends.values())
        assert len(ends) == 3

    run(shared, story)


@pytest.mark.parametrize("place", ["core", "memory"], indirect=True)
def test_nothing_grows_without_end(place: Place) -> None:
    async def story(registry: Registry) -> None:
        await registry.sync("one", busy(**{f"http://{place}": place + 1 for place in range(MOST_ENDPOINTS + 10)}))
        loads = (await registry.sync("two", NOTHING)).loads
        assert len(loads) == MOST_ENDPOINTS
        assert min(loads.values()) == 11  # those with the most in flight are kept
        for number in range(HISTORY + 5):
            await registry.happened(Happening("now", f"agent-{number}", "turned_down", "flows", "", {"rate": 0.5}))
        kept = await registry.history(limit=HISTORY + 5)
        assert len(kept) == HISTORY
        assert kept[0] == Happening("now", f"agent-{HISTORY + 4}", "turned_down", "flows", "", {"rate": 0.5})
        for number in range(MOST_SETTINGS):
            await registry.switch_off(f"agent-{number}", OFF)
        with pytest.raises(RegistryFull, match="1,000 agents are switched off already"):
            await registry.switch_off("one-more", OFF)
        await registry.switch_off("agent-1", replace(OFF, by="bob"))

    run(place, story)


def test_tenants_have_nothing_in_common(place: Place) -> None:
    async def story() -> None:
        async with place.open() as store:
            mine, other = store.registry("t"), store.registry("T")
            await mine.register(instance(), 60, 1)
            await mine.sync("one", busy(a=1))
            seen = await other.sync("two", NOTHING)
            assert (seen.news, seen.loads) == (News(), {})
            assert await store.registry("t").get("refund-1")

    asyncio.run(story())


def test_an_answer_that_is_lost_changes_nothing_twice(core: Place) -> None:
    async def each(registry: Registry, before: Callable[[], None]) -> None:
        before()
        await registry.register(instance(), 60, 1)
        before()
        await registry.switch_off("refund", OFF)
        before()
        await registry.happened(Happening("now", "refund", "seen", "ada", "", {}))
        before()
        await registry.sync("one", busy(a=2))

    async def story() -> None:
        async with losing_answers(core) as (url, lose), core.open(url=url) as store:
            registry = store.registry("t")
            await each(store.registry("other"), lambda: None)  # the server knows the scripts from now on
            await each(registry, lambda: lose.append(0))
            assert lose == []
            assert [what for _, what in await told(registry)] == ["seen", "off", "registered"]
            assert (await registry.sync("two", NOTHING)).loads == {"a": 2}

    asyncio.run(story())


def test_a_store_that_lost_everything_never_says_a_revision_again(shared: Place) -> None:
    async def story(registry: Registry) -> None:
        await registry.switch_off("refund", OFF)
        known = (await registry.sync("one", NOTHING)).revision
        with shared.admin() as redis:
            redis.flushall()
        emptied = await registry.sync("one", NOTHING, known)
        assert emptied.news == News()
        await registry.switch_off("billing", OFF)
        assert (await registry.sync("one", NOTHING, known)).revision not in (known, emptied.revision)

    run(shared, story)
