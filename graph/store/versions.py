"""The versions of flows that calls may be on, as the text of their files: what a replica that never read the file, or
reads another by now, needs to go on with a call. The text is kept as it was written: no `${VARIABLE}` is filled in.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import orjson
from redis.asyncio import Redis

from graph.store.asking import answering
from graph.store.names import PREFIX, encode


@dataclass(frozen=True, slots=True)
class KeptVersion:
    """A version of a flow."""

    flow: str
    digest: str
    file: str
    """Where it was read, for messages."""
    seen: float
    """When a service last served it, seconds since 1970."""
    text: str = field(default="", repr=False)
    """As the file was written; left out of lists."""
    fills: bool = True
    """Whether `${VARIABLE}` in it is looked up in the environment of the service."""


class Versions(Protocol):
    """Where versions are kept, for each tenant. Every method may raise `StoreUnavailable`."""

    async def put(self, tenant: str, versions: Sequence[KeptVersion]) -> None:
        """Keep versions; one that is kept already is kept as seen now."""

    async def get(self, tenant: str, digest: str) -> KeptVersion | None:
        """Return a version with its text."""

    async def all(self, tenant: str) -> list[KeptVersion]:
        """Return every version, without its text."""

    async def drop(self, tenant: str, digests: Iterable[str]) -> None:
        """Forget versions."""

    async def make(self, tenant: str, version: KeptVersion) -> None:
        """Keep a version of a flow that was made at run time, and let new calls of the flow begin on it."""

    async def made(self, tenant: str) -> dict[str, str]:
        """Return the flows that were made at run time, each with the digest that new calls begin on."""

    async def made_as(self, tenant: str, flow: str) -> str | None:
        """Return the digest that new calls of a flow begin on which was made at run time; None if there is none."""

    async def unmake(self, tenant: str, flow: str) -> bool:
        """Let no new call begin on a flow that was made at run time; tell whether there was one."""


class RedisVersions:
    """Versions in Redis, over core commands.

    Three keys for each tenant, which share a slot:

        flows:versions:TENANT                   hash: digest → flow, file, seen … (JSON)
        flows:{flows:versions:TENANT}:texts     hash: digest → the text
        flows:{flows:versions:TENANT}:made      hash: flow → the digest that new calls begin on

    Args:
        client: a client that returns bytes.
    """

    def __init__(self, client: Redis) -> None:
        self._client = client

    async def put(self, tenant: str, versions: Sequence[KeptVersion]) -> None:
        """Keep versions, in one round trip."""
        if not versions:
            return
        about, texts, _ = _keys(tenant)
        async with answering(), self._client.pipeline(transaction=True) as pipe:
            for version in versions:
                pipe.hset(about, version.digest, _written(version))
                pipe.hsetnx(texts, version.digest, version.text)
            await pipe.execute()

    async def get(self, tenant: str, digest: str) -> KeptVersion | None:
        """Return a version with its text."""
        about, texts, _ = _keys(tenant)
        async with answering(), self._client.pipeline(transaction=True) as pipe:
            pipe.hget(about, digest)
            pipe.hget(texts, digest)
            told, text = await pipe.execute()
        return _read(digest, told, text.decode()) if told and text is not None else None

    async def all(self, tenant: str) -> list[KeptVersion]:
        """Return every version, without its text."""
        async with answering():
            found: Any = await self._client.hgetall(_keys(tenant)[0])
        return [_read(digest.decode(), told, "") for digest, told in found.items()]

    async def drop(self, tenant: str, digests: Iterable[str]) -> None:
        """Forget versions."""
        gone = list(digests)
        if not gone:
            return
        about, texts, _ = _keys(tenant)
        async with answering(), self._client.pipeline(transaction=True) as pipe:
            pipe.hdel(about, *gone)
            pipe.hdel(texts, *gone)
            await pipe.execute()

    async def make(self, tenant: str, version: KeptVersion) -> None:
        """Keep a version, and let new calls begin on it."""
        about, texts, made = _keys(tenant)
        async with answering(), self._client.pipeline(transaction=True) as pipe:
            pipe.hset(about, version.digest, _written(version))
            pipe.hset(texts, version.digest, version.text)
            pipe.hset(made, version.flow, version.digest)
            await pipe.execute()

    async def made(self, tenant: str) -> dict[str, str]:
        """Return the flows that were made at run time."""
        async with answering():
            found: Any = await self._client.hgetall(_keys(tenant)[2])
        return {flow.decode(): digest.decode() for flow, digest in found.items()}

    async def made_as(self, tenant: str, flow: str) -> str | None:
        """Return the digest of a flow that was made at run time."""
        async with answering():
            found: Any = await self._client.hget(_keys(tenant)[2], flow)
        return found.decode() if found else None

    async def unmake(self, tenant: str, flow: str) -> bool:
        """Let no new call begin on a flow."""
        async with answering():
            return bool(await self._client.hdel(_keys(tenant)[2], flow))


class MemoryVersions:
    """Versions in this process's memory."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str], KeptVersion] = {}
        self._made: dict[tuple[str, str], str] = {}

    async def put(self, tenant: str, versions: Sequence[KeptVersion]) -> None:
        """Keep versions."""
        self._kept |= {(tenant, version.digest): version for version in versions}

    async def get(self, tenant: str, digest: str) -> KeptVersion | None:
        """Return a version."""
        return self._kept.get((tenant, digest))

    async def all(self, tenant: str) -> list[KeptVersion]:
        """Return every version."""
        return [version for (owner, _), version in self._kept.items() if owner == tenant]

    async def drop(self, tenant: str, digests: Iterable[str]) -> None:
        """Forget versions."""
        for digest in digests:
            self._kept.pop((tenant, digest), None)

    async def make(self, tenant: str, version: KeptVersion) -> None:
        """Keep a version, and let new calls begin on it."""
        await self.put(tenant, [version])
        self._made[tenant, version.flow] = version.digest

    async def made(self, tenant: str) -> dict[str, str]:
        """Return the flows that were made at run time."""
        return {flow: digest for (owner, flow), digest in self._made.items() if owner == tenant}

    async def made_as(self, tenant: str, flow: str) -> str | None:
        """Return the digest of a flow that was made at run time."""
        return self._made.get((tenant, flow))

    async def unmake(self, tenant: str, flow: str) -> bool:
        """Let no new call begin on a flow."""
        return self._made.pop((tenant, flow), None) is not None


def _keys(tenant: str) -> tuple[str, str, str]:
    about = f"{PREFIX}versions:{encode(tenant)}"
    return about, f"{PREFIX}{{{about}}}:texts", f"{PREFIX}{{{about}}}:made"


def _written(version: KeptVersion) -> bytes:
    told = {"flow": version.flow, "file": version.file, "seen": version.seen, "fills": version.fills}
    return orjson.dumps(told)


def _read(digest: str, told: bytes, text: str) -> KeptVersion:
    return KeptVersion(digest=digest, text=text, **orjson.loads(told))
