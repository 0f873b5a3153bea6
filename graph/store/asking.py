"""How Redis is asked: failures of its client translated, and several scripts in one round trip."""

from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol

from redis.commands.core import AsyncScript
from redis.exceptions import NoScriptError, RedisError, ResponseError
from redis.typing import ScriptTextT

from graph.store.errors import StoreUnavailable

Argument = str | bytes | int


class answering:  # noqa: N801  (used as a context, like the functions of contextlib, but it costs a fifth of them)
    """Translate what the Redis client raises.

    Raises:
        StoreUnavailable: for any failure of the store.
    """

    async def __aenter__(self) -> None:
        """Do nothing."""

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Raise what is to be raised instead of an error."""
        if isinstance(error, ResponseError):
            raise StoreUnavailable(f"the store refuses what it is asked ({type(error).__name__})") from error
        if isinstance(error, (RedisError, OSError, TimeoutError)):
            raise StoreUnavailable(f"the store does not answer ({type(error).__name__})") from error


@dataclass(frozen=True, slots=True)
class Asked:
    """One run of a script."""

    script: AsyncScript
    keys: Sequence[str]
    args: Sequence[Argument]

    def by(self, word: str, script: ScriptTextT) -> list[Any]:
        """Return the command that runs it."""
        return [word, script, len(self.keys), *self.keys, *self.args]


class Server(Protocol):
    """What runs commands: one server, or a cluster of them."""

    async def ask(self, commands: Sequence[Sequence[Argument]]) -> list[Any]:
        """Run commands in one round trip; what is refused is returned in its place.

        Raises:
            redis.exceptions.RedisError: if there is no answer.
            OSError: likewise.
            TimeoutError: likewise.
        """


async def together(server: Server, asked: Sequence[Asked]) -> list[Any]:
    """Run scripts in one round trip, not as one transaction: their keys may lie in several slots of a cluster.

    A refusal is returned in its place. redis-py's own pipeline would ask for each script beforehand, a round trip
    more; here one that the server forgot is sent whole afterwards.
    """
    if not asked:
        return []
    answers = await server.ask([one.by("EVALSHA", one.script.sha) for one in asked])
    forgotten = [place for place, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
    if forgotten:
        again = await server.ask([asked[place].by("EVAL", asked[place].script.script) for place in forgotten])
        for place, answer in zip(forgotten, again, strict=True):
            answers[place] = answer
    return answers
