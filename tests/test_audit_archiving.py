"""The trails of calls that are over reach the archive, from every store: ended, expired, deleted or followed."""

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest

from graph.archive import Archive, days
from graph.archive_checks import Proof
from graph.audit import start_of, verify
from graph.loader import load_flow
from graph.store.errors import NotArchived
from graph.store.packing import STEPS
from tests.conftest import StartService
from tests.desk import FIVE_TURNS, Desk, Place, call_key, eventually, losing_answers, thread
from tests.test_command_line import flows

KEY = b"a secret that nobody has"


def archived(folder: Path) -> list[tuple[str, str, int, int]]:
    """Return what was archived: call, why, first and last step; all of it is sound."""
    assert list(Proof(days(folder)).findings()) == []
    lines = [json.loads(line) for file in days(folder) for line in file.read_text().splitlines()]
    return [(line["call_identify_id"], line["reason"], line["first"], line["count"]) for line in lines]


async def whole_call(desk: Desk, call: str = "C") -> None:
    for intent in FIVE_TURNS:
        await desk.turn(call, intent, f"I say {intent}")


def expire(place: Place, desk: Desk, call: str = "C") -> None:
    """Let a call's time be over, and that of looking at it."""
    if place.url is None:
        desk.store.calls._calls[thread(call)].expires = 0.0  # type: ignore[attr-defined]
        return
    with place.admin() as redis:
        redis.delete(*(key for key in redis.scan_iter(f"flows:{{{thread(call)}}}:*") if not _stays(key)))
        redis.zadd("flows:{flows:index:t}:trails", {thread(call): 0})


def left_of(place: Place, call: str = "C") -> list[str]:
    """Return the keys of a call that are left."""
    return [key for key in sorted(place.keys()) if key.startswith(f"flows:{{{thread(call)}}}")]


def _stays(key: bytes) -> bool:
    return key.endswith((b":steps", b":audit"))


def test_a_call_that_has_ended_is_archived_once_and_is_still_there(place: Place, tmp_path: Path) -> None:
    async def story() -> None:
        async with place.desk(archive=Archive(tmp_path)) as desk:
            await whole_call(desk)
            await desk.turn("other", "greeting")
            assert await desk.store.calls.archive_due("t") == 1
            assert await desk.store.calls.archive_due("t") == 0
            assert archived(tmp_path) == [("C", "ended", 1, 5)]
            assert await desk.steps("C") == [1, 2, 3, 4, 5]
            expire(place, desk)
            assert await desk.store.calls.archive_due("t") == 0
            assert archived(tmp_path) == [("C", "ended", 1, 5)]

    asyncio.run(story())


def test_a_call_that_has_expired_is_archived_and_leaves_no_key(place: Place, tmp_path: Path) -> None:
    async def story() -> None:
        async with place.desk(archive=Archive(tmp_path)) as desk:
            await desk.turn("C", "greeting")
            await desk.turn("C", "verify_identity")
            assert await desk.store.calls.archive_due("t") == 0
            expire(place, desk)
            assert await desk.store.calls.read(thread("C")) is None
            assert await desk.store.calls.archive_due("t") == 1
            assert archived(tmp_path) == [("C", "expired", 1, 2)]
            assert left_of(place) == []
            assert await desk.store.calls.archive_due("t") == 0

    asyncio.run(story())


def test_calls_expire_by_themselves_into_the_archive(place: Place, tmp_path: Path) -> None:
    async def story() -> None:
        async with place.desk(archive=Archive(tmp_path), ttl=1) as desk:
            await desk.turn("C", "greeting")

            async def look() -> list[Any]:
                await desk.store.calls.archive_due("t")
                return archived(tmp_path)

            await eventually(look, [("C", "expired", 1, 1)])

    asyncio.run(story())


def test_a_call_that_is_deleted_is_archived_before(place: Place, tmp_path: Path) -> None:
    async def story() -> None:
        async with place.desk(archive=Archive(tmp_path)) as desk:
            await desk.turn("C", "greeting")
            assert await desk.store.calls.delete(thread("C")) is True
            assert archived(tmp_path) == [("C", "deleted", 1, 1)]
            assert place.keys() == set()
            assert await desk.store.calls.delete(thread("C")) is False
            await whole_call(desk, "D")
            await desk.store.calls.archive_due("t")
            assert await desk.store.calls.delete(thread("D")) is True
            assert archived(tmp_path) == [("C", "deleted", 1, 1), ("D", "ended", 1, 5)]

    asyncio.run(story())


def test_a_call_under_an_old_name_lets_the_old_trail_be_archived_first(place: Place, tmp_path: Path) -> None:
    async def story() -> None:
        async with place.desk(archive=Archive(tmp_path)) as desk:
            await desk.turn("C", "greeting", "the first")
            expire(place, desk)
            await desk.turn("C", "greeting", "the second")
            assert await desk.steps("C") == [1]
            await desk.store.calls.delete(thread("C"))
            assert archived(tmp_path) == [("C", "expired", 1, 1), ("C", "deleted", 1, 1)]
            text = days(tmp_path)[0].read_text()
            assert ("the first" in text, "the second" in text) == (True, True)

    asyncio.run(story())


def test_each_run_of_a_call_that_restarts_is_a_piece_of_its_trail(place: Place, tmp_path: Path) -> None:
    async def story() -> None:
        async with place.desk(archive=Archive(tmp_path), flow=load_flow("relay", {})) as desk:
            for number in (1, 2, 3):
                await desk.turn("C", None, f"message {number}")
                if number != 2:
                    await desk.store.calls.archive_due("t")
            await desk.turn("C", None, "message 4")
            await desk.store.calls.delete(thread("C"))
            assert archived(tmp_path) == [("C", "ended", 1, 1), ("C", "ended", 2, 3), ("C", "deleted", 4, 4)]

    asyncio.run(story())


def test_replicas_that_look_at_once_archive_each_trail_once(shared: Place, tmp_path: Path) -> None:
    async def story() -> None:
        archive = Archive(tmp_path)
        async with shared.desk(archive=archive) as one, shared.desk(archive=archive) as other:
            for number in range(6):
                await whole_call(one, f"C{number}")
            looks = [desk.store.calls.archive_due("t") for desk in (one, other) for _ in range(3)]
            assert sum(await asyncio.gather(*looks)) == 6
            assert sorted(archived(tmp_path)) == [(f"C{number}", "ended", 1, 5) for number in range(6)]

    asyncio.run(story())


def test_what_a_process_that_died_claimed_is_archived_by_another(shared: Place, tmp_path: Path) -> None:
    async def story() -> None:
        async with shared.desk(archive=_Dying(tmp_path)) as dying, shared.desk(archive=Archive(tmp_path)) as other:
            await whole_call(dying)
            with pytest.raises(NotArchived):
                await dying.store.calls.archive_due("t")  # it has written, and not yet noted that
            assert await other.store.calls.archive_due("t") == 0  # for a minute nobody else has it
            with shared.admin() as redis:
                redis.zadd("flows:{flows:index:t}:trails", {thread("C"): 0})
            assert await other.store.calls.archive_due("t") == 1
            assert archived(tmp_path) == [("C", "ended", 1, 5)] * 2

    asyncio.run(story())


class _Dying(Archive):
    def append(self, segments: Any) -> str:
        super().append(segments)
        raise OSError(5, "the process was killed here")


@pytest.mark.parametrize("lost", range(6))
def test_answers_that_are_lost_lose_no_trail(shared: Place, tmp_path: Path, lost: int) -> None:
    async def story() -> None:
        async with losing_answers(shared) as (url, lose):
            async with shared.desk(archive=Archive(tmp_path)) as desk:
                await whole_call(desk)
            async with shared.desk(archive=Archive(tmp_path), url=url) as behind:
                lose.append(lost)
                await behind.store.calls.archive_due("t")
                await behind.store.calls.delete(thread("C"))
        assert set(archived(tmp_path)) <= {("C", "ended", 1, 5), ("C", "deleted", 1, 5)}
        assert archived(tmp_path)

    asyncio.run(story())


def test_nothing_goes_that_cannot_be_archived(place: Place, tmp_path: Path) -> None:
    folder = tmp_path / "archive"

    async def story() -> None:
        async with place.desk(archive=Archive(folder)) as desk:
            folder.touch()  # a file, where a folder should be
            await whole_call(desk)
            for _ in range(2):
                with pytest.raises(NotArchived, match="audit trails cannot be archived"):
                    await desk.store.calls.delete(thread("C"))
            assert await desk.steps("C") == [1, 2, 3, 4, 5]
            folder.unlink()
            assert await desk.store.calls.delete(thread("C")) is True
            assert archived(folder) == [("C", "deleted", 1, 5)]

    asyncio.run(story())


def test_a_long_trail_is_archived_in_pieces(core: Place, tmp_path: Path) -> None:
    async def story() -> None:
        async with core.desk(archive=Archive(tmp_path), flow=load_flow("relay", {})) as desk:
            for _ in range(21):
                await desk.turn("C", None, "x" * 400_000)
            while await desk.store.calls.archive_due("t"):
                pass
            found = archived(tmp_path)
            assert len(found) > 1
            assert [first for _, _, first, _ in found] == [1, *(count + 1 for *_, count in found[:-1])]
            assert found[-1][-1] == 21

    asyncio.run(story())


def test_a_trail_that_was_tampered_with_in_the_store_is_archived_as_it_is(shared: Place, tmp_path: Path) -> None:
    async def story() -> None:
        async with shared.desk(archive=Archive(tmp_path)) as desk:
            await whole_call(desk)
            with shared.admin() as redis:
                redis.lset(f"flows:{{{thread('C')}}}:steps", 1, b"garbage\xff")
                redis.rpop(f"flows:{{{thread('C')}}}:steps")
            await desk.store.calls.archive_due("t")
            findings = list(Proof(days(tmp_path)).findings())
            assert [finding.step for finding in findings] == [2, 3, None, None]

    asyncio.run(story())


def test_a_call_that_is_open_or_parked_waits(shared: Place, tmp_path: Path) -> None:
    async def story() -> None:
        async with shared.desk(archive=Archive(tmp_path)) as desk:
            await desk.turn("C", "greeting")
            turn = await desk.begin("C")
            with shared.admin() as redis:
                redis.zadd("flows:{flows:index:t}:trails", {thread("C"): 0})
                assert await desk.store.calls.archive_due("t") == 0
                again = redis.zscore("flows:{flows:index:t}:trails", thread("C"))
                assert again is not None
                seconds, _ = redis.time()
                assert 200 < float(again) / 1000 - seconds < 400
                assert redis.ttl(call_key("C")) == -1
            await desk.store.calls.abandon(turn)

    asyncio.run(story())


def test_the_service_verifies_a_call_and_archives_it_when_it_is_deleted(start: StartService, tmp_path: Path) -> None:
    options = {"checkpointer": "memory", "archive": str(tmp_path), "audit_key": KEY.decode()}
    service = start(**options)
    service.turn("CALL 1-ü", "Hello, my PIN is 1234", "greeting")
    service.turn("CALL 1-ü", "I am Ada, 1234", "verify_identity")
    told = service.http.get("/session/CALL 1-ü/steps", params={"verify": True}).json()

    assert (told["verified"], told["faults"], told["count"]) == (True, [], 2)
    assert told["head"] == told["steps"][-1]["audit"]["hash"]
    assert service.http.get("/session/CALL 1-ü/steps").json() == told["steps"]
    env = {"FLOWS_AUDIT_KEY": KEY.decode()}
    done = flows("audit", "verify", "CALL 1-ü", "--url", service.url)
    sound = f"the trail of call 'CALL 1-ü' is sound: 2 steps, head {told['head']}\n"
    assert (done.returncode, done.stdout, done.stderr) == (0, sound, "")
    assert service.http.delete("/session/CALL 1-ü").status_code == 200
    assert flows("audit", "verify", "CALL 1-ü", "--url", service.url).returncode == 2
    assert flows("audit", "verify", str(tmp_path), env=env).returncode == 0
    assert flows("audit", "erase", str(tmp_path), "CALL 1-ü").returncode == 0
    assert flows("audit", "verify", str(tmp_path), env=env).returncode == 0
    assert "1234" not in days(tmp_path)[0].read_text()


def test_the_service_says_which_step_was_tampered_with(start: StartService, core: Place) -> None:
    service = start(redis_url=core.url, checkpointer="core", tenant="t")
    service.turn("C", "Hello", "greeting")
    service.turn("C", "I am Ada, 1234", "verify_identity")
    with core.admin() as redis:
        key = f"flows:{{{thread('C')}}}:steps"
        step = json.loads(STEPS.unpack(redis.lindex(key, 0) or b""))
        redis.lset(key, 0, json.dumps({**step, "input_message": "I agree to everything"}))
    told = service.http.get("/session/C/steps", params={"verify": True}).json()

    what = "was changed, or what came before it is missing, new or in another place"
    assert (told["verified"], told["faults"]) == (False, [{"step": 1, "what": what}])
    done = flows("audit", "verify", "C", "--url", service.url)
    assert (done.returncode, done.stderr) == (1, f"call 'C': step 1 {what}\n")
    with core.admin() as redis:
        redis.rpop(key)
    told = service.http.get("/session/C/steps", params={"verify": True}).json()
    assert [fault["step"] for fault in told["faults"]] == [1, None, None]


def test_a_service_that_stops_archives_what_has_ended(start: StartService, tmp_path: Path) -> None:
    service = start(checkpointer="memory", archive=str(tmp_path))
    for intent in FIVE_TURNS:
        service.turn("C", "my number is 1234", intent)
    service.stop()

    assert archived(tmp_path) == [("C", "ended", 1, 5)]


def test_a_service_without_an_archive_makes_none(start: StartService, tmp_path: Path) -> None:
    service = start(data_dir=tmp_path, checkpointer="memory", archive="off")
    service.turn("C", "Hello", "greeting")
    assert service.http.delete("/session/C").status_code == 200
    service.stop()

    assert os.listdir(tmp_path) == []


def test_a_service_that_cannot_archive_refuses_to_delete(start: StartService, tmp_path: Path) -> None:
    (tmp_path / "archive").touch()
    service = start(data_dir=tmp_path, checkpointer="memory", archive=None)
    service.turn("C", "Hello", "greeting")
    refused = service.http.delete("/session/C")

    assert (refused.status_code, refused.headers["retry-after"]) == (503, "2")
    assert service.http.get("/session/C").status_code == 200


def test_every_step_of_every_store_is_sealed(place: Place) -> None:
    async def story() -> None:
        async with place.desk() as desk:
            await whole_call(desk)
            record = await desk.store.calls.read(thread("C"))
            assert record is not None
            chain = start_of(thread("C"), record.incarnation)
            assert verify(record.steps, chain, head=record.chain, count=5) == []

    asyncio.run(story())
