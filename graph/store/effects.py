"""The writes of a call whose outcomes are not saved yet, as they are kept beside it, and as its turn knows them.

A record is there from just before its message leaves until the commit that saves what came of it. The commit parks
what nobody can know: such a write waits for a person, and the call makes no other write meanwhile.
"""

import hashlib
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import orjson

from graph.store.errors import OutcomeUnknown, Replaced
from graph.store.names import decode
from nodes.ports import Effect
from nodes.state import Step

if TYPE_CHECKING:
    from graph.store.calls import OpenedTurn, OpenTurn

RESOLVES = "resolves"
"""Where a turn says which parked write it settles."""

_TAG_LENGTH = 16
_LEAVES_WITHIN = 0.5
"""The part of a lease within which a write has to leave once it is written down."""


@dataclass(frozen=True, slots=True)
class Record:
    """A write as it is kept."""

    effect: Effect
    parked: str | None = None
    """The name by which it is settled, once nobody can know what came of it."""
    said: Mapping[str, Any] = field(default_factory=dict)
    """What the store was told of its turn: all that it takes to go on with it."""
    committed: bool = True
    """Whether something of its turn was committed before it left, or has been since."""

    @property
    def is_open(self) -> bool:
        """Whether nobody has been asked yet what came of it: its turn is under way, or its process died."""
        return self.parked is None

    @property
    def waits(self) -> bool:
        """Whether a person has to say what came of it."""
        return self.parked is not None and self.effect.resolution is None


Change = tuple[str, Record | None]
"""What becomes of a record, by its message id; None if it is settled."""


class TurnEffects:
    """The writes of the call of an open turn (`nodes.ports.Effects`)."""

    def __init__(self, turn: "OpenTurn") -> None:
        self._turn = turn
        self._at: dict[str, list[str]] = {}
        for message_id, record in turn.effects.items():
            self._at.setdefault(record.effect.where, []).append(message_id)

    def waiting(self) -> list[str]:
        """Return the names of the writes that wait for a person."""
        turn = self._turn
        if len(turn.effects) == len(turn.sent):  # what it sent itself is known, or goes on
            return []
        return [record.parked for record in turn.effects.values() if record.waits and record.parked]

    def must_be_known(self) -> None:
        """Refuse every further write while another of the call has an outcome that nobody knows.

        Raises:
            OutcomeUnknown: then.
        """
        if waiting := self.waiting():
            raise OutcomeUnknown(waiting)

    async def ready(self, after: int) -> None:
        """Return once the call is saved up to so many steps.

        Raises:
            StoreError: if it cannot be.
        """
        await self._turn.until_committed(after)

    def left_at(self, where: str, agent: str) -> Effect | None:
        """Return what an earlier turn sent there and nobody has settled, or a person has."""
        return next((left for left in self._left(where) if left.agent == agent), None)

    async def sending(self, effect: Effect) -> float:
        """Write down that a write is about to leave; return until when it may, on the monotonic clock.

        Raises:
            OutcomeUnknown: if another write of the call has an outcome that nobody knows.
            Replaced: if a later message has taken the place of the turn's.
            TurnLost: if another turn has taken over.
            StoreUnavailable: if the store failed.
        """
        turn = self._turn
        self.must_be_known()
        if blocking := self._others_left_at(effect):
            raise OutcomeUnknown([parked_name(turn.thread, message_id) for message_id in blocking])
        if turn.calls is None:
            raise LookupError("the turn has no store")
        if turn.replaced:
            raise Replaced("a later message has taken this one's place; nothing of it was saved")
        over, leave_by = self._replaced_by(effect), time.monotonic() + turn.calls.lease * _LEAVES_WITHIN
        record = Record(effect, said=turn.said, committed=turn.rest or bool(turn.steps))
        turn.effects[effect.message_id] = record
        self._at.setdefault(effect.where, []).append(effect.message_id)
        turn.marks.pop(effect.message_id, None)
        turn.sent.add(effect.message_id)
        turn.idle.add(effect.message_id)  # as long as it has not left
        await turn.calls.send(turn, record, over)
        turn.idle.discard(effect.message_id)
        apply(turn, [(message_id, None) for message_id in over])
        return leave_by

    def settled(self, message_id: str, *, acted: bool = True) -> None:
        """Note that it is known what came of a write."""
        if message_id in self._turn.effects:
            self._turn.marks[message_id] = None
        if message_id in self._turn.sent and not acted:
            self._turn.idle.add(message_id)

    def parked(self, effect: Effect) -> str:
        """Note that nobody can know what came of a write."""
        turn = self._turn
        parked = parked_name(turn.thread, effect.message_id)
        record = turn.effects.get(effect.message_id) or Record(effect)
        turn.effects[effect.message_id] = record
        turn.marks[effect.message_id] = replace(record, parked=parked, said=record.said or turn.said, committed=True)
        return parked

    def _left(self, where: str) -> list[Effect]:
        """Return what earlier turns sent to a place, and this one can do something about."""
        turn = self._turn
        here = [message_id for message_id in self._at.get(where, ()) if message_id in turn.effects]
        left = [one for one in here if one not in turn.marks and one not in turn.sent]
        return [turn.effects[one].effect for one in left if not turn.effects[one].waits]

    def _others_left_at(self, effect: Effect) -> list[str]:
        """Return what an earlier turn sent to the same place, if that was another message."""
        return [left.message_id for left in self._left(effect.where) if left.message_id != effect.message_id]

    def _replaced_by(self, effect: Effect) -> list[str]:
        """Return the writes that were certainly not acted on, and that another agent gets in their place."""
        turn = self._turn
        here = [message_id for message_id in self._at.get(effect.where, ()) if message_id in turn.effects]
        return [
            message_id
            for message_id in here
            if message_id != effect.message_id
            and turn.marks.get(message_id, turn) is None
            and turn.effects[message_id].effect.after == effect.after
        ]


def changes_with(turn: "OpenTurn", steps: Sequence[Step], *, last: bool) -> list[Change]:
    """Return what becomes of the records with a commit: of those whose steps are in it, and with the last one of a
    turn of all others too, which nobody will look after any more."""
    reached = max((step["number"] for step in steps), default=0)
    changes: list[Change] = [
        (message_id, mark)
        for message_id, mark in turn.marks.items()
        if message_id in turn.effects and turn.effects[message_id].effect.after < reached
    ]
    return changes + (unsaid(turn, but=[message_id for message_id, _ in changes]) if last else [])


def unsaid(turn: "OpenTurn", *, but: Sequence[str] = ()) -> list[Change]:
    """Return the records that are still open though the turn is over, parked."""
    return [
        (message_id, _parked(turn, record))
        for message_id, record in turn.effects.items()
        if record.is_open and message_id not in but
    ]


def _parked(turn: "OpenTurn", record: Record) -> Record:
    parked = parked_name(turn.thread, record.effect.message_id)
    return replace(record, parked=parked, said=record.said or turn.said, committed=True)


def apply(turn: "OpenTurn", changes: Iterable[Change]) -> None:
    """Let the turn know what the store knows now."""
    for message_id, record in changes:
        turn.marks.pop(message_id, None)
        turn.sent.discard(message_id)
        turn.idle.discard(message_id)
        if record is None:
            turn.effects.pop(message_id, None)
        else:
            turn.effects[message_id] = record


def is_held(step: Step) -> bool:
    """Tell whether a step is no answer, as a person has to say first what came of a write."""
    return bool(step.get("parked") or step.get("held_by"))


def left_by(token: str, records: Iterable[Record], resumed: int = 0) -> "OpenedTurn | None":
    """Return the turn that sent a write of which nobody has been asked yet what came of it, to be gone on with.

    Args:
        token: of the turn that is open in the call now.
        records: the call's.
        resumed: how often it was gone on with.
    """
    record = next((one for one in records if one.is_open and one.said), None)
    if record is None:
        return None
    from graph.store.calls import OpenedTurn  # it is built on this module

    return OpenedTurn(token, False, {**record.said, "resumed": resumed}, committed=record.committed)


def parked_name(thread: str, message_id: str) -> str:
    """Return the name by which a parked write is known: it says where to find it."""
    tag = hashlib.sha256(message_id.encode()).hexdigest()[:_TAG_LENGTH]
    return f"{decode(thread.partition('__')[2])}.{tag}"


def call_of(parked: str) -> str | None:
    """Return the call that the name of a parked write names; None if it is no such name."""
    call, _, tag = parked.rpartition(".")
    return call if call and len(tag) == _TAG_LENGTH else None


def written(record: Record | None) -> bytes:
    """Write a record down; nothing if it is settled. What a person says of it goes into the trail, and not here."""
    if record is None:
        return b""
    effect = asdict(replace(record.effect, resolution=None))
    kept = {"effect": effect, "said": dict(record.said), "committed": record.committed}
    return orjson.dumps({**kept, **({"parked": record.parked} if record.parked else {})})


def read(blob: bytes) -> Record:
    """Read a record as `written` wrote it."""
    kept = orjson.loads(blob)
    return Record(Effect(**kept["effect"]), kept.get("parked"), kept["said"], kept["committed"])
