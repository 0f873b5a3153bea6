"""The embedded store killed with SIGKILL: its users start it again, once, and what it answered is there."""

import asyncio
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from itertools import count
from pathlib import Path
from threading import Event
from typing import Any

import httpx
import pytest
from redis import Redis as Sync
from redis.asyncio import Redis
from redis.exceptions import RedisError
from structlog.testing import capture_logs

from graph.store.embedded import Fsync, embedded_store
from tests.conftest import Service, StartService
from tests.test_embedded_store import data_dir, exists, gone, holder, launched, release, server_of  # noqa: F401

PATIENCE = 10.0
BUSY_DISK = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static int slowly(long call, int fd) {
    char link[64], path[4096] = "";
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    if (readlink(link, path, sizeof path - 1) > 0 && strstr(path, ".incr.aof")) {
        int told = open(getenv("FLUSHES"), O_WRONLY | O_APPEND | O_CREAT, 0600);
        dprintf(told, "%d\n", getpid());
        close(told);
        usleep(atoi(getenv("FLUSH_MICROSECONDS")));
    }
    return syscall(call, fd);
}
int fsync(int fd) { return slowly(SYS_fsync, fd); }
int fdatasync(int fd) { return slowly(SYS_fdatasync, fd); }
"""
"""A disk that takes its time to flush what the server appends, and tells which process wanted it."""

BusyDisk = Callable[[float], Path]

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
compiled = pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("cc") is None, reason="puts a library of its own before libc"
)


@pytest.fixture
def busy_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BusyDisk:
    """Make flushes of the server take so many seconds; returns where they are told."""
    library, told = tmp_path / "busy_disk.so", tmp_path / "flushes"
    subprocess.run(["cc", "-shared", "-fPIC", "-w", "-o", library, "-xc", "-"], input=BUSY_DISK.encode(), check=True)

    def slow_down(seconds: float) -> Path:
        for name, value in (("LD_PRELOAD", library), ("FLUSHES", told), ("FLUSH_MICROSECONDS", int(seconds * 1e6))):
            monkeypatch.setenv(name, str(value))
        return told

    return slow_down


def test_a_killed_server_serves_again_at_the_same_address(data_dir: Path) -> None:  # noqa: F811
    async def story() -> list[int]:
        async with embedded_store(data_dir) as store, Redis.from_url(store.url) as client:
            served = [store.pid]
            for number in range(3):
                await client.rpush("steps", number)
                os.kill(served[-1], signal.SIGKILL)
                served.append(await another(client, served[-1]))
                assert await client.llen("steps") == number + 1
        return served

    served = asyncio.run(story())
    assert len(set(served)) == 4
    assert not any(exists(pid) for pid in served)


@linux_only
def test_several_processes_that_see_it_die_start_one(data_dir: Path) -> None:  # noqa: F811
    async def kill_twice(first: int) -> int:
        async with embedded_store(data_dir) as store, Redis.from_url(store.url) as client:
            assert store.pid == first
            for _ in range(2):
                killed = await pid_of(client)
                os.kill(killed, signal.SIGKILL)
                last = await another(client, killed)
                assert servers_of(data_dir) == [last]
                assert await client.get("holders") == b"3"
        return last

    with launched(data_dir) as one, launched(data_dir) as two, launched(data_dir) as three:
        (first,) = {server_of(holder) for holder in (one, two, three)}
        last = asyncio.run(kill_twice(first))
        for parent in (one, two, three):
            release(parent)
    assert gone(last)


def test_a_server_left_behind_is_started_again_by_who_took_it_over(data_dir: Path) -> None:  # noqa: F811
    async def take_over(left: int) -> Any:
        async with embedded_store(data_dir) as store, Redis.from_url(store.url) as client:
            assert (store.pid, store.adopted) == (left, True)
            os.kill(left, signal.SIGKILL)
            await another(client, left)
            return await client.get("holders")

    with holder(data_dir) as (parent, server):
        os.kill(parent.pid, signal.SIGKILL)
        parent.wait()
        assert asyncio.run(take_over(server)) == b"1"


@pytest.mark.parametrize("milliseconds", range(0, 100, 10))
def test_a_store_closed_while_it_is_started_again_leaves_nothing(
    data_dir: Path,  # noqa: F811
    milliseconds: int,
) -> None:
    async def close_in_between() -> None:
        async with embedded_store(data_dir) as store, Redis.from_url(store.url) as client:
            await client.set("kept", "yes")
            os.kill(store.pid, signal.SIGKILL)
            await asyncio.sleep(milliseconds / 1000)

    async def reopen() -> tuple[bool, Any]:
        async with embedded_store(data_dir) as store, Redis.from_url(store.url) as client:
            return store.adopted, await client.get("kept")

    asyncio.run(close_in_between())
    assert servers_of(data_dir) == []
    assert asyncio.run(reopen()) == (False, b"yes")


def test_a_server_that_cannot_be_started_is_tried_again_ever_more_seldom(data_dir: Path) -> None:  # noqa: F811
    async def story() -> Any:
        async with embedded_store(data_dir) as store, Redis.from_url(store.url) as client:
            await client.set("kept", "yes")
            manifest = data_dir / "appendonlydir" / "appendonly.aof.manifest"
            sound = manifest.read_text()
            manifest.write_text("not a manifest\n")
            with capture_logs() as logs:
                os.kill(store.pid, signal.SIGKILL)
                await answered(lambda: tried(logs), lambda times: times == 3)
                since = time.monotonic()
                await answered(lambda: tried(logs), lambda times: times == 5)
                assert time.monotonic() - since > (0.2 + 0.4) / 2
                manifest.write_text(sound)
                await answered(lambda: client.get("kept"), lambda kept: kept == b"yes")
                return await answered(lambda: told(logs), lambda lines: lines[-1]["log_level"] == "warning")

    async def tried(logs: Any) -> int:
        return sum(line["log_level"] == "error" for line in logs)

    async def told(logs: Any) -> list[dict[str, Any]]:
        return list(logs)

    *refused, last = asyncio.run(story())
    assert {(line["event"], line["log_level"]) for line in refused} == {("store server not started again", "error")}
    assert all("Invalid AOF manifest" in line["reason"] for line in refused)
    assert (last["event"], last["log_level"], last["started_by"]) == (
        "store server died and serves again",
        "warning",
        "us",
    )


def test_turns_are_refused_until_it_serves_again_and_none_that_was_answered_is_lost(
    start: StartService, tmp_path: Path
) -> None:
    service = start(data_dir=tmp_path / "flows")
    calls = [f"KILLED-{number}" for number in range(4)]

    with (tmp_path / "flows" / "store.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # so that nobody can start it again
        kill_server(service)
        assert service.turn("KILLED-0", "Hello", "unknown").json()["type"] == "store-unavailable"

    killed = Event()
    with ThreadPoolExecutor(len(calls)) as pool:
        stories = [pool.submit(insisting, service, call, until=killed) for call in calls]
        try:
            for _ in range(4):
                kill_server(service)
        finally:
            killed.set()
        refusals = [refusal for story in stories for refusal in story.result(timeout=60)]

    assert {(answer.status_code, answer.json()["type"]) for answer in refusals} <= {
        (503, "store-unavailable"),
        (409, "turn-in-flight"),
    }
    assert all(int(answer.headers["retry-after"]) > 0 for answer in refusals)


@pytest.mark.parametrize(("fsync", "appendfsync"), [("everysec", "no"), ("always", "always")])
def test_the_server_is_as_strict_as_it_is_told(data_dir: Path, fsync: Fsync, appendfsync: str) -> None:  # noqa: F811
    async def story() -> tuple[str, str]:
        async with embedded_store(data_dir, fsync=fsync) as store, Redis.from_url(store.url) as client:
            before = await strictness(client)
            os.kill(store.pid, signal.SIGKILL)
            await another(client, store.pid)
            return before, await strictness(client)

    assert asyncio.run(story()) == (appendfsync, appendfsync)


def test_of_several_users_the_strictest_has_its_way(data_dir: Path) -> None:  # noqa: F811
    async def story() -> list[str]:
        async with embedded_store(data_dir) as store, Redis.from_url(store.url) as client:
            seen = [await strictness(client)]
            async with embedded_store(data_dir, fsync="always"):
                seen.append(await strictness(client))
                async with embedded_store(data_dir):
                    seen.append(await strictness(client))
        return seen

    assert asyncio.run(story()) == ["no", "always", "always"]


def test_a_server_left_behind_is_as_strict_as_who_takes_it_over(data_dir: Path) -> None:  # noqa: F811
    async def take_over(fsync: Fsync) -> str:
        async with embedded_store(data_dir, fsync=fsync) as store, Redis.from_url(store.url) as client:
            assert store.adopted
            return await strictness(client)

    for fsync, appendfsync in (("always", "always"), ("everysec", "no")):
        with holder(data_dir) as (parent, _):
            os.kill(parent.pid, signal.SIGKILL)
            parent.wait()
            assert asyncio.run(take_over(fsync)) == appendfsync  # type: ignore[arg-type]


@compiled
def test_a_kill_while_the_disk_is_busy_loses_nothing(
    data_dir: Path,  # noqa: F811
    busy_disk: BusyDisk,
) -> None:
    """Valkey's own `everysec` holds back what it should append while it flushes, but answers."""
    told = busy_disk(1.5)

    async def story() -> tuple[int, int]:
        async with embedded_store(data_dir) as store, Redis.from_url(store.url) as client:
            written, end = 0, time.monotonic() + 2
            while not told.exists() and time.monotonic() < end:
                written = await client.rpush("steps", written)
            for _ in range(100):
                written = await client.rpush("steps", written)
            os.kill(store.pid, signal.SIGKILL)
            await another(client, store.pid)
            return written, await client.llen("steps")

    written, kept = asyncio.run(story())
    assert kept == written


@compiled
def test_what_was_answered_is_flushed_within_a_second_or_so(
    data_dir: Path,  # noqa: F811
    busy_disk: BusyDisk,
) -> None:
    told = busy_disk(0)
    with launched(data_dir) as parent:
        server_of(parent)
        since = time.monotonic()
        while not told.exists():
            assert time.monotonic() - since < PATIENCE
            time.sleep(0.01)
        assert time.monotonic() - since < 3
        assert told.read_text().split() == [str(parent.pid)]


def insisting(service: Service, call: str, *, until: Event) -> list[httpx.Response]:
    """Take turns, each sent again until it is answered; see that the trail has them all, and return the refusals."""
    refusals, told = [], {}
    for number in count():
        while (answer := service.turn(call, f"message {number}", "unknown")).status_code != 200:
            refusals.append(answer)
        told[answer.json()["step"]] = f"message {number}"
        if until.is_set() and number >= 20:
            break
    while (answer := service.http.get(f"/session/{call}/steps")).status_code != 200:  # the last kill was just now
        refusals.append(answer)
    trail = answer.json()
    assert [step["number"] for step in trail] == list(range(1, len(trail) + 1))
    assert {step["number"]: step["input_message"] for step in trail if step["number"] in told} == told
    return refusals


async def answered(ask: Callable[[], Awaitable[Any]], enough: Callable[[Any], bool]) -> Any:
    """What is answered once it is enough; a store that does not answer is asked again."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                if enough(found := await ask()):
                    return found
            except RedisError:
                pass
            await asyncio.sleep(0.005)


async def pid_of(client: Redis) -> int:
    """The server's process id, once it has loaded its data."""
    await client.exists("anything")  # refused meanwhile, unlike INFO
    return int((await client.info("server"))["process_id"])


async def another(client: Redis, killed: int) -> int:
    """The process id of the server that serves in place of the one that was killed."""
    found: int = await answered(lambda: pid_of(client), lambda pid: pid != killed)
    return found


async def strictness(client: Redis) -> str:
    return str((await client.config_get("appendfsync"))["appendfsync"])


def kill_server(service: Service) -> None:
    """Kill the store's server as soon as it serves."""
    with closing(Sync.from_url(f"unix://{service.runtime.settings.data_dir / 'store.sock'}")) as client:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            with suppress(RedisError):
                return os.kill(client.info("server")["process_id"], signal.SIGKILL)
            time.sleep(0.005)
    raise AssertionError("the store does not serve again")


def servers_of(directory: Path) -> list[int]:
    """The processes of servers of the directory that live, defunct ones aside."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if f"{directory}/store.sock".encode() in entry.read_bytes():
                found.append(int(entry.parent.name))
    return found
