"""Looking up the hosts of agents: those that were registered are checked each time, as whoever owns a name may lead
it elsewhere later, and have threads of their own, as a name may take long to be found or not found."""

import asyncio
import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver

from nodes.reaching.pool import Pool
from server.a2a.push_guard import CheckedResolver, PushGuard, PushRefused

_THREADS = 8


class AgentHosts(AbstractResolver):
    """Resolves hosts for aiohttp.

    Args:
        pool: says which hosts flows name.
        allow: the networks and hosts, besides public ones, where registered agents may be.
        setting: what says `allow`, for messages.
    """

    def __init__(self, pool: Pool, allow: Sequence[str], setting: str) -> None:
        self._pool = pool
        self._plain = ThreadedResolver()
        self._lookups = _Lookups()
        self._checked = CheckedResolver(PushGuard(allow, resolve=self._lookups.look_up, setting=setting))

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Look up a host; raises `OSError`, also for a registered one that leads where it may not."""
        if host.casefold() in self._pool.hosts_of_flows:  # who writes flows may name any
            return await self._plain.resolve(host, port, family)
        try:
            return await self._checked.resolve(host, port, family)
        except PushRefused as refused:
            raise OSError(str(refused)) from refused

    async def close(self) -> None:
        """Wait for no lookup that is under way."""
        self._lookups.close()
        await self._plain.close()


class _Lookups:
    """Looks up names, each once at a time: one that is not answered holds one thread, however often it is wanted."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="flows-lookup")
        self._going: dict[tuple[str, int], asyncio.Future[list[str]]] = {}

    async def look_up(self, host: str, port: int) -> list[str]:
        """Return the addresses of a host; raises `OSError` if there is none."""
        key = host, port
        if key not in self._going:
            going = asyncio.get_running_loop().run_in_executor(self._threads, _addresses, host, port)
            self._going[key] = going
            going.add_done_callback(lambda done: self._done(key, done))
        return await asyncio.shield(self._going[key])

    def _done(self, key: tuple[str, int], done: "asyncio.Future[list[str]]") -> None:
        del self._going[key]
        if not done.cancelled():
            done.exception()  # retrieved here, so that a lookup nobody waits for any more is not reported as lost

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


def _addresses(host: str, port: int) -> list[str]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError as error:
        raise OSError(f"{host!r} is no name of a host") from error
    return list(dict.fromkeys(str(info[4][0]) for info in found))
