"""A Redis Cluster that looks like one server: each command goes to the node that keeps its key, and those of a
pipeline to all their nodes at once.

redis-py's own cluster client is not used, because one node in trouble disturbs the calls on all others there: it
closes every connection when a node says CLUSTERDOWN, fails a whole pipeline with one node of it, and has no queue
where connections are short. What we use is its plain client, one for each node, its errors and its hash of a key.
"""

import asyncio
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.client import Pipeline
from redis.commands.core import AsyncScript
from redis.crc import key_slot
from redis.exceptions import (
    AskError,
    ClusterDownError,
    MovedError,
    NoScriptError,
    RedisError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as ConnectionLost
from redis.exceptions import TimeoutError as TimedOut
from redis.typing import ScriptTextT

from graph.store.asking import Server
from graph.store.link import Link, Pipelines

Address = tuple[str, int]
Owners = list[Address | None]
"""The primary of each slot."""
Command = tuple[Sequence[Any], Mapping[str, Any]]

_SLOTS = 16_384
_KEYLESS = frozenset({"PING", "PUBLISH", "PUBSUB NUMSUB"})
_SCRIPTED = frozenset({"EVAL", "EVALSHA"})
_PASSING = (ConnectionLost, TimedOut, ClusterDownError, TryAgainError, AskError)
"""What may be over if we ask again, or elsewhere; `MovedError` is an `AskError`."""
_PAUSES = (0.05, 0.1, 0.2)
"""Between the tries of what is just being moved to another node (TRYAGAIN)."""
_LOOK_SECONDS, _SELDOM_SECONDS = 1.0, 0.1
"""For how long a node is asked who keeps what, and how often at most."""


class Cluster(Redis):
    """A client of a cluster. Of what it is asked, all keys of a command lie in one slot, and all of a transaction.

    Args:
        seed: a client of some node.
        owners: what that node says.
        connect: makes a client of the node at a host and port.
    """

    def __init__(self, seed: Redis, owners: Owners, connect: Callable[[str, int], Redis]) -> None:
        super().__init__(connection_pool=seed.connection_pool)
        self._seed = seed
        self._connect = connect
        self._owners = owners
        self._nodes: dict[Address, Redis] = {}
        self._texts: dict[str, ScriptTextT] = {}
        self._looking = asyncio.Lock()
        self._look_after = 0.0

    def register_script(self, script: ScriptTextT) -> AsyncScript:  # type: ignore[override]  # as in the plain client
        """Return a script to run; a node that does not know it is sent all of it."""
        registered = AsyncScript(self, script)
        self._texts[registered.sha] = script
        return registered

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> "ClusterPipeline":
        """Return a pipeline; its commands go to several nodes, unless it is a transaction."""
        return ClusterPipeline(self, transaction)

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Run a command where its key is."""
        (answer,) = await self.run([(args, options)])
        if isinstance(answer, NoScriptError) and args[1] in self._texts:
            (answer,) = await self.run([(("EVAL", self._texts[args[1]], *args[2:]), options)])
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def scan_iter(self, *args: Any, **options: Any) -> Any:
        """Yield the keys of all nodes."""
        for address in self._primaries():
            async for key in self._node(address).scan_iter(*args, **options):
                yield key

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        """Close the connections to all nodes; the seed is for its owner to close."""
        await asyncio.gather(*(self._nodes.pop(address).aclose() for address in list(self._nodes)))

    def some_pool(self) -> ConnectionPool:
        """Return the connections to one of the nodes, for what any of them can do."""
        return self._node(self._anywhere()).connection_pool

    async def ask(self, commands: Sequence[Sequence[Any]]) -> list[Any]:
        """Run commands as `run` does."""
        return await self.run([(command, {}) for command in commands])

    async def run(self, commands: Sequence[Command]) -> list[Any]:
        """Run commands, on all their nodes at once; an error is returned in the place of each that failed."""
        slots = [_slot_of(args) for args, _ in commands]
        addresses = [self._owner(slot) for slot in slots]
        answers: list[Any] = [None] * len(commands)

        async def ask(address: Address) -> None:
            places = [place for place, one in enumerate(addresses) if one == address]
            for place, answer in zip(places, await self._sent(address, [commands[p] for p in places]), strict=True):
                answers[place] = answer

        async def ask_again(place: int) -> None:
            (answers[place],) = await self._followed_up(
                slots[place], addresses[place], [commands[place]], [answers[place]]
            )

        await asyncio.gather(*map(ask, dict.fromkeys(addresses)))
        failed = [place for place, answer in enumerate(answers) if isinstance(answer, _PASSING)]
        if failed:
            await asyncio.gather(*map(ask_again, failed))
        return answers

    async def run_as_one(self, commands: Sequence[Command]) -> list[Any]:
        """Run a transaction."""
        slot = _slot_of(commands[0][0])
        address = self._owner(slot)
        answers = await self._sent(address, commands, transaction=True)
        return await self._followed_up(slot, address, commands, answers, transaction=True)

    async def _followed_up(
        self,
        slot: int | None,
        address: Address,
        commands: Sequence[Command],
        answers: list[Any],
        *,
        transaction: bool = False,
    ) -> list[Any]:
        """Go where the answers send us, until there are others."""
        for pause in _PAUSES:
            error = next((answer for answer in answers if isinstance(answer, _PASSING)), None)
            if error is None:
                break
            if isinstance(error, AskError) and not isinstance(error, MovedError):
                if transaction:  # which nobody can have run at two nodes
                    break
                answers = await self._sent(_told_by(error, address), commands, asking=True)
                continue
            if not await self._mended(error, slot, address, pause):
                break
            address = self._owner(slot, avoid=address)
            answers = await self._sent(address, commands, transaction=transaction)
        return answers

    async def _mended(self, error: Exception, slot: int | None, address: Address, pause: float) -> bool:
        """Do what can be done about an error; tell whether another try is worth while."""
        if isinstance(error, TryAgainError):
            await asyncio.sleep(pause)
            return True
        await self._look(avoid=address)
        if isinstance(error, MovedError):
            self._owners[error.slot_id] = _told_by(error, address)
            return True
        return self._owner(slot, avoid=address) != address

    async def _sent(
        self, address: Address, commands: Sequence[Command], *, transaction: bool = False, asking: bool = False
    ) -> list[Any]:
        """Have a node run commands in one round trip; if it is not to be reached, that is the answer to each."""
        async with self._node(address).pipeline(transaction) as pipe:
            if asking:
                pipe.execute_command("ASKING")
            for args, options in commands:
                pipe.execute_command(*args, **options)
            try:
                answers: list[Any] = await pipe.execute(raise_on_error=False)
            except (RedisError, OSError, TimeoutError) as error:
                return [error] * len(commands)
        return answers[int(asking) :]

    async def _look(self, avoid: Address) -> None:
        """Have a node say who keeps what, the one to avoid last, and the seed's name after it: it may lead to a new
        one. If none answers, all is as it was."""
        clock = asyncio.get_running_loop().time
        async with self._looking:
            if clock() < self._look_after:
                return
            known = sorted(self._primaries(), key=lambda address: (address == avoid, random.random()))
            for node in (*map(self._node, known), self._seed):
                owners = await _asked(node)
                if owners and any(owners):
                    await self._learn(owners)
                    break
            self._look_after = clock() + _SELDOM_SECONDS

    async def _learn(self, owners: Owners) -> None:
        self._owners = owners
        gone = set(self._nodes).difference(self._primaries())
        await asyncio.gather(*(self._nodes.pop(address).aclose() for address in gone))

    def _owner(self, slot: int | None, avoid: Address | None = None) -> Address:
        """Return who keeps a slot; if nobody does, any node will say so."""
        owner = None if slot is None else self._owners[slot]
        return self._anywhere(avoid) if owner is None else owner

    def _anywhere(self, avoid: Address | None = None) -> Address:
        primaries = self._primaries()
        return random.choice([one for one in primaries if one != avoid] or primaries or [address_of(self._seed)])

    def _primaries(self) -> list[Address]:
        return [address for address in dict.fromkeys(self._owners) if address is not None]

    def _node(self, address: Address) -> Redis:
        if address not in self._nodes:
            self._nodes[address] = self._connect(*address)
        return self._nodes[address]


class ClusterPipeline(Pipeline):
    """Commands that are sent together.

    Args:
        cluster: whose nodes run them.
        transaction: whether they are one transaction.
    """

    def __init__(self, cluster: Cluster, transaction: bool) -> None:
        super().__init__(cluster.connection_pool, cluster.response_callbacks, transaction, None)
        self._cluster = cluster

    async def execute(self, raise_on_error: bool = True) -> list[Any]:
        """Run the commands; return their answers, or raise the first error."""
        commands, self.command_stack = self.command_stack, []
        run = self._cluster.run_as_one if self.is_transaction else self._cluster.run
        answers = await run(commands) if commands else []
        if raise_on_error:
            for error in (answer for answer in answers if isinstance(answer, Exception)):
                raise error
        return answers


def server_of(client: Redis) -> Server:
    """Return what runs the scripts of turns where a client leads to."""
    return client if isinstance(client, Cluster) else Link(client)


def bulk_server_of(client: Redis) -> Server:
    """Return what runs scripts there that have much to answer."""
    return client if isinstance(client, Cluster) else Pipelines(client)


async def owners_in(node: Redis) -> Owners:
    """Ask a node of a cluster who keeps what.

    Raises:
        redis.exceptions.ResponseError: if it is in no cluster, or we may not ask.
    """
    told: Iterable[Any] = await node.execute_command("CLUSTER", "SLOTS")  # type: ignore[no-untyped-call]
    owners: Owners = [None] * _SLOTS
    for first, last, (host, port, *_), *_ in told:
        # A node that does not know its own name says nothing, or `?`: it is where we asked.
        name = (host or b"").decode().replace("?", "") or address_of(node)[0]
        owners[first : last + 1] = [(name, port)] * (last + 1 - first)
    return owners


async def _asked(node: Redis) -> Owners | None:
    try:
        async with asyncio.timeout(_LOOK_SECONDS):
            return await owners_in(node)
    except (RedisError, OSError, TimeoutError):
        return None


def address_of(node: Redis) -> Address:
    """Return the host and port of a node's client."""
    options = node.connection_pool.connection_kwargs
    return options.get("host", "localhost"), int(options.get("port", 6379))


def _told_by(error: AskError, address: Address) -> Address:
    """Return where an error sends us; it names no host if that is the one which says so."""
    return error.host or address[0], error.port


def _slot_of(args: Sequence[Any]) -> int | None:
    """Return the slot of a command; None if any node can run it."""
    if args[0] in _KEYLESS:
        return None
    key = args[3] if args[0] in _SCRIPTED else args[1]
    return key_slot(key.encode() if isinstance(key, str) else key)
