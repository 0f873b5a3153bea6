"""The product, broken on purpose in one place: what the suite must see."""

from collections.abc import Callable, Mapping
from typing import Any


def break_product(how: str) -> None:
    """Break it in this process, before it is opened."""
    BREAKS[how]()


def _no_fence() -> None:
    """A turn that lost its call commits and writes down all the same, and in ignorance of what came between."""
    from graph.store import scripts
    from graph.store.redis_calls import RedisCalls

    async def renew(self: Any, turn: Any) -> None:
        await self._renew(keys=[f"nobody's {turn.thread}"], args=[turn.token, 1])

    _replace(scripts, "COMMIT", "if had[1] ~= ARGV[1] or (had[2] or '') ~= ARGV[2] then", "if false then")
    _replace(scripts, "SEND", "if redis.call('HGET', KEYS[1], 'turn') ~= ARGV[1] then", "if false then")
    RedisCalls.renew = renew  # type: ignore[method-assign]


def _no_effect_record() -> None:
    """Writes leave without being written down."""
    from graph.store.redis_calls import RedisCalls

    async def send(self: Any, turn: Any, record: Any, over: Any) -> None:
        return

    RedisCalls.send = send  # type: ignore[method-assign]


def _resend_without_asking() -> None:
    """What was sent before is sent again, whoever its agent is."""
    from nodes.writing import Write

    async def found(self: Write) -> None:
        return

    Write._found = found  # type: ignore[method-assign]
    Write.may_be_sent_again = True  # type: ignore[assignment]


def _replace(module: Any, name: str, there: str, instead: str) -> None:
    text = getattr(module, name)
    if there not in text:
        raise LookupError(f"{name} has changed: {there!r} is not in it any more")
    setattr(module, name, text.replace(there, instead))


BREAKS: Mapping[str, Callable[[], None]] = {
    "no-fence": _no_fence,
    "no-effect-record": _no_effect_record,
    "resend-without-asking": _resend_without_asking,
}
