"""The registry of agents in Redis, so that all replicas share it; `registry_scripts` tells how."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, fields, replace
from functools import partial
from typing import Any, TypeVar

import orjson
import structlog
from redis.asyncio import Redis
from redis.commands.core import AsyncScript

from graph.store import registry_scripts as scripts
from graph.store.asking import Argument, answering
from graph.store.names import PREFIX, encode
from graph.store.registry import (
    ALWAYS,
    MOST_ENDPOINTS,
    MOST_SETTINGS,
    SILENT_SECONDS,
    Always,
    RegistryFull,
    Report,
    Synced,
    came,
    concerning,
    cut,
    event,
    moment,
    others,
    summed,
)
from nodes.reaching.records import Happening, News, Off, Registered, Weights

Kept = TypeVar("Kept", Registered, Off, Weights, Happening)

_LIFE_SECONDS = 60
"""So long the reports of replicas are kept when none comes any more."""
_OFF, _WEIGHTS, _HISTORY = (scripts.PARTS.index(part) for part in ("off", "weights", "history"))
_OFF_ANYWAY = Off("unknown", "its record cannot be read", "")

log = structlog.get_logger()


class RedisRegistry:
    """The registry of a tenant in Redis; `registry_scripts` tells how.

    Args:
        client: a client that returns bytes.
        tenant: whose agents they are.
    """

    def __init__(self, client: Redis, tenant: str) -> None:
        self._client = client
        self._keys = [f"{PREFIX}{{agents:{encode(tenant)}}}:{part}" for part in scripts.PARTS]
        script = client.register_script
        self._register, self._heartbeat = script(scripts.REGISTER), script(scripts.HEARTBEAT)
        self._remove, self._get, self._read = script(scripts.REMOVE), script(scripts.GET), script(scripts.READ)
        self._set, self._happened = script(scripts.SET), script(scripts.HAPPENED)
        self._sync, self._leave = script(scripts.SYNC), script(scripts.LEAVE)

    async def register(self, registered: Registered, ttl_seconds: int | None, most: int) -> Registered:
        """Register an instance."""
        name, written, entry = registered.name, _written(registered), orjson.dumps(came(registered))
        ttl = "" if ttl_seconds is None else ttl_seconds
        told = await self._ask(self._register, name, written, registered.registered_at, ttl, most, entry)
        if not told[0]:
            raise RegistryFull("agents are registered", most)
        return replace(registered, registered_at=told[1].decode(), expires_at=_seconds(told[2]))

    async def heartbeat(self, name: str, ttl_seconds: int | None = None) -> Registered | None:
        """Keep an instance for another while."""
        told = await self._ask(self._heartbeat, name, "" if ttl_seconds is None else ttl_seconds)
        return _read(*told) if told else None

    async def remove(self, name: str, by: str = "", why: str = "") -> bool:
        """Take an instance away."""
        return bool(await self._ask(self._remove, name, by, why))

    async def get(self, name: str) -> Registered | None:
        """Return an instance."""
        kept, ends = await self._ask(self._get, name)
        return _read(kept, ends) if kept else None

    async def all(self) -> News:
        """Return all that is registered and set."""
        _, *found = await self._ask(self._read)
        return _news(*found)

    async def switch_off(self, agent: str, off: Off) -> None:
        """Let no call reach an agent."""
        entry = event(agent, "off", off.by, off.reason, at=off.at)
        if await self._put(_OFF, agent, orjson.dumps(asdict(off)), entry) < 0:
            raise RegistryFull("agents are switched off", MOST_SETTINGS)

    async def switch_on(self, agent: str, by: str, why: str) -> bool:
        """Let calls reach an agent again."""
        return await self._put(_OFF, agent, b"", event(agent, "on", by, why)) > 0

    async def weigh(
        self, agent: str, weights: Weights, what: str = "weights", *, unless_changed: Weights | Always | None = ALWAYS
    ) -> bool:
        """Share out an agent's calls over its versions anew."""
        entry = event(agent, what, weights.by, weights.why, at=weights.at, weights=dict(weights.weights))
        seen = () if unless_changed is ALWAYS else (_weights(unless_changed),)
        done = await self._put(_WEIGHTS, agent, _weights(weights), entry, *seen)
        if done < 0:
            raise RegistryFull("agents have weights set at run time", MOST_SETTINGS)
        return done > 0

    async def unweigh(self, agent: str, by: str, why: str) -> bool:
        """Go back to the weights of the flow."""
        return await self._put(_WEIGHTS, agent, b"", event(agent, "weights_of_the_flow", by, why)) > 0

    async def sync(self, replica: str, report: Report, revision: str = "") -> Synced:
        """Tell, and be told."""
        mine = cut(report["loads"])
        versions = orjson.dumps(report["versions"])
        args = (orjson.dumps(mine), versions, revision, int(SILENT_SECONDS * 1000), _LIFE_SECONDS * 1000)
        told = await self._ask(self._sync, replica, *args, MOST_ENDPOINTS)
        loads = others({url.decode(): int(float(load)) for url, load in _pairs(told[1])}, mine)
        news = replace(_news(*told[3:]), loads=loads) if told[3:] else None
        return Synced(told[0].decode(), loads, summed(map(orjson.loads, told[2])), news)

    async def leave(self, replica: str) -> None:
        """Take back what a replica reported."""
        await self._ask(self._leave, replica)

    async def happened(self, happening: Happening) -> None:
        """Keep something in the history."""
        await self._ask(self._happened, orjson.dumps(asdict(happening)))

    async def history(self, *about: str, limit: int = 100) -> list[Happening]:
        """Return what happened last."""
        async with answering():
            found: Any = await self._client.lrange(self._keys[_HISTORY], 0, -1)
        return concerning((_happening(orjson.loads(entry)) for entry in found), about, limit)

    async def _put(self, which: int, agent: str, value: bytes, entry: Mapping[str, Any], *seen: bytes) -> int:
        told: int = await self._ask(self._set, which + 1, agent, value, orjson.dumps(entry), MOST_SETTINGS, *seen)
        return told

    async def _ask(self, script: AsyncScript, *args: Argument) -> Any:
        async with answering():
            return await script(keys=self._keys, args=args)


def _happening(told: dict[str, Any]) -> Happening:
    if not isinstance(told["at"], str):  # by the store's clock
        told["at"] = moment(told["at"] / 1000)
    return _as(Happening, told)


def _weights(weights: Weights | None) -> bytes:
    return orjson.dumps(asdict(weights)) if weights else b""


def _written(registered: Registered) -> bytes:
    told = asdict(registered)
    del told["registered_at"], told["expires_at"]
    return orjson.dumps(told, option=orjson.OPT_SORT_KEYS)


def _read(kept: bytes, ends: bytes) -> Registered:
    _, at, told = kept.split(b" ", 2)
    about = orjson.loads(told)
    about |= {"registered_at": at.decode(), "expires_at": _seconds(ends)}
    return _as(Registered, {**about, "capabilities": tuple(about["capabilities"])})


def _news(registered: list[bytes], expiries: list[bytes], off: list[bytes], weights: list[bytes]) -> News:
    ends = dict(_pairs(expiries))
    instances = sorted(_pairs(registered))
    read = (_unless_unreadable(name, partial(_read, kept, ends.get(name, b""))) for name, kept in instances)
    switched = {name.decode(): _OFF_ANYWAY for name, _ in _pairs(off)} | _settings(Off, off)
    return News(tuple(filter(None, read)), switched, _settings(Weights, weights))


def _settings(kind: type[Kept], flat: list[bytes]) -> dict[str, Kept]:
    """Return what is set of each agent."""
    read = {name: _unless_unreadable(name, partial(_set, kind, told)) for name, told in _pairs(flat)}
    return {name.decode(): kept for name, kept in read.items() if kept is not None}


def _set(kind: type[Kept], told: bytes) -> Kept:
    return _as(kind, orjson.loads(told))


def _as(kind: type[Kept], told: dict[str, Any]) -> Kept:
    """Return a record of what is told; a later version of ours may have told more."""
    known = {one.name for one in fields(kind)}
    return kind(**{name: value for name, value in told.items() if name in known})


def _unless_unreadable(name: bytes, read: Callable[[], Kept]) -> Kept | None:
    """Return a record; None, and a line in the log, if it cannot be read: the others still count."""
    try:
        return read()
    except (TypeError, ValueError, KeyError) as error:
        log.warning("a record of the registry cannot be read", name=name.decode(errors="replace"), reason=str(error))
        return None


def _seconds(milliseconds: bytes) -> float | None:
    return float(milliseconds) / 1000 if milliseconds else None


def _pairs(flat: Sequence[bytes]) -> Iterable[tuple[bytes, bytes]]:
    return zip(flat[::2], flat[1::2], strict=True)
