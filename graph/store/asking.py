"""How Redis is asked: failures of its client translated, and several scripts in one round trip."""

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis
from redis.commands.core import AsyncScript
from redis.exceptions import NoScriptError, RedisError, ResponseError
from redis.typing import ScriptTextT

from graph.store.errors import StoreUnavailable

Argument = str | bytes | int


@asynccontextmanager
async def answering() -> AsyncIterator[None]:
    """Translate what the Redis client raises.

    Raises:
        StoreUnavailable: for any failure of the store.
    """
    try:
        yield
    except ResponseError as error:
        raise StoreUnavailable(f"the store refuses what it is asked ({type(error).__name__})") from error
    except (RedisError, OSError, TimeoutError) as error:
        raise StoreUnavailable(f"the store does not answer ({type(error).__name__})") from error


@dataclass(frozen=True, slots=True)
class Asked:
    """One run of a script."""

    script: AsyncScript
    keys: Sequence[str]
    args: Sequence[Argument]


async def together(client: Redis, asked: Sequence[Asked]) -> list[Any]:
    """Run scripts in one round trip, not as one transaction: their keys may lie in several slots of a cluster.

    A refusal is returned in its place. redis-py's own pipeline would ask for each script beforehand, a round trip
    more; here one that the server forgot is sent whole afterwards.
    """
    answers = await _sent(client, [("EVALSHA", one.script.sha, one) for one in asked])
    forgotten = [place for place, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
    if forgotten:
        again = await _sent(client, [("EVAL", asked[place].script.script, asked[place]) for place in forgotten])
        for place, answer in zip(forgotten, again, strict=True):
            answers[place] = answer
    return answers


async def _sent(client: Redis, commands: Iterable[tuple[str, ScriptTextT, Asked]]) -> list[Any]:
    async with client.pipeline(transaction=False) as pipe:
        for word, script, one in commands:
            pipe.execute_command(word, script, len(one.keys), *one.keys, *one.args)
        return await pipe.execute(raise_on_error=False)
