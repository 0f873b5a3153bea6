"""Calls in Redis or Valkey, over core commands only. On `core` the checkpoint is part of the commit; a stock saver
writes its own beforehand, and the commit then makes it the call's head: what no commit named was never answered."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

import orjson
from langgraph.checkpoint.base import BaseCheckpointSaver
from redis.asyncio import Redis

from graph.archive import Archive, Reason
from graph.store import scripts
from graph.store.asking import Argument, Asked, answering, together
from graph.store.calls import OpenTurn, sealed, steps_before_run
from graph.store.codec import Codec
from graph.store.effects import (
    RESOLVES,
    Change,
    Record,
    apply,
    changes_with,
    is_held,
    parked_name,
    read,
    unsaid,
    written,
)
from graph.store.errors import Busy, NotArchived, OutcomeUnknown, SaveUnknown, StoreUnavailable, TurnLost
from graph.store.index import Index, warn
from graph.store.link import Link
from graph.store.names import followed_key, keys_of
from graph.store.owed import Owed
from graph.store.packing import STEPS
from graph.store.reading import NO_STEPS, Reading, died_in, push_in, step_in
from graph.store.trails import KEPT_SECONDS, Trails
from nodes.state import Step
from nodes.timing import Timing

LEASE_SECONDS = 30.0

_ANSWERED = 2  # by BEGIN: an earlier step answered this very message
_WAITS = 3  # by BEGIN: an earlier call of the name has left steps that are not archived
_UNKNOWN = -2  # by DELETE: what came of a write of the call is not known
_NOT_ARCHIVED = -3  # by DELETE: steps of the call are not archived
_ANOTHER, _GONE = 0, 2  # by ABANDON, and by a COMMIT that is refused: another turn holds the call; it is gone
_COMMIT_SECONDS, _COMMIT_WAIT = 1.5, 0.05
"""For how long a commit is tried that gets no answer, and the first pause between two tries."""
_LONGER = 60
"""Seconds by which a stock saver's checkpoints outlive the call's own keys: a head is never lost."""


class RedisCalls(Reading):
    """Calls in Redis.

    Args:
        client: a client that returns bytes.
        saver: the saver that holds the checkpoints.
        ttl: seconds a call lives after its last turn; 0 for ever.
        codec: how the saver's `aput` commits (`core`); None if a stock saver keeps the checkpoints itself.
        checkpoint_key: where a stock saver keeps a checkpoint, by thread and checkpoint id; needed if they expire.
        lease: seconds a turn may hold a call without renewing.
        audit_key: the secret that the hashes of the audit trail are made with; empty for none.
        archive: where audit trails go before they are gone; None for nowhere.
    """

    def __init__(
        self,
        client: Redis,
        saver: BaseCheckpointSaver[Any],
        *,
        ttl: int,
        codec: Codec | None = None,
        checkpoint_key: Callable[[str, str], str] | None = None,
        lease: float = LEASE_SECONDS,
        audit_key: bytes = b"",
        archive: Archive | None = None,
    ) -> None:
        index = Index(client, ttl=ttl, archives=archive is not None)
        super().__init__(client, saver, index=index, codec=codec)
        self._trails = Trails(client, self._bulk, index, archive) if archive else None
        self._longer = KEPT_SECONDS if archive else 0
        self._audit_key = audit_key
        self._ttl = ttl
        self._checkpoint_key = checkpoint_key
        self._lease_ms = int(lease * 1000)
        self._owed = Owed(lease)
        # A call's first turn may take longer than a call is kept; renewing its lease keeps it for that long again.
        self._first_least = int(2 * lease) + 1
        self._begin = client.register_script(scripts.BEGIN)
        self._commit = client.register_script(scripts.COMMIT)
        self._abandon = client.register_script(scripts.ABANDON)
        self._let_go = client.register_script(scripts.LET_GO)
        self._live = client.register_script(scripts.LIVE)
        self._renew = client.register_script(scripts.RENEW)
        self._delete = client.register_script(scripts.DELETE)
        self._send = client.register_script(scripts.SEND)
        self._settle = client.register_script(scripts.SETTLE)

    @property
    def saver(self) -> BaseCheckpointSaver[Any]:
        """Where the states of the calls are saved."""
        return self._saver

    @property
    def lease(self) -> float:
        """Seconds a turn may hold a call without renewing."""
        return self._lease_ms / 1000

    async def begin(
        self,
        thread: str,
        *,
        said: Mapping[str, Any] | None = None,
        key: str | None = None,
        version: str = "",
        ttl: int | None = None,
        resumes: bool = False,
        died: str | None = None,
        body: str = "",
        timing: Timing | None = None,
    ) -> OpenTurn:
        """Take the lease and load the call.

        A call whose checkpoint was evicted, or ran out while a crashed turn held the rest, is as good as expired.
        """
        new = _New(said or {}, key, version, ttl, resumes, died, body, timing or Timing())
        with new.timing.of("store"):
            return await self._begun(thread, new)

    async def _begun(self, thread: str, new: "_New") -> OpenTurn:
        turn, blob, writes = await self._take(thread, new)
        if turn.head is None:
            return turn
        async with _giving_back(self._give_back_after, turn), answering():
            await together(self._server, self._lives(thread, turn.head, 0))
            turn.loaded = await self._loaded(thread, turn.head, blob, writes)
        if turn.loaded is None and turn.effects:  # nothing but its writes is left; they have to be settled
            if RESOLVES in new.said:
                return turn
            await self.abandon(turn)
            await self._refuse_to_drop(thread)
        if turn.loaded is None:
            await self._forget(turn, "expired")
            if new.died is not None:
                raise Busy("nothing is left of the run that was to be gone on with")
            return await self._begun(thread, new)
        return turn

    async def keep(self, turn: OpenTurn, steps: Sequence[Step], *, complete: bool) -> None:
        """Make the checkpoint that a stock saver wrote the call's head, and go on."""
        if turn.saved is not None:
            await self.commit(turn, turn.saved, b"", steps, complete=complete, release=False)

    async def finish(self, turn: OpenTurn, steps: Sequence[Step], *, complete: bool) -> None:
        """Make the checkpoint that a stock saver wrote the call's head; on `core` the saver already has."""
        if turn.closed:
            return
        if turn.saved is None or turn.saved == turn.head:
            if left := unsaid(turn):
                await self.settle(turn, left)
            await self._release(turn, steps)
        else:
            await self.commit(turn, turn.saved, b"", steps, complete=complete)

    async def commit(
        self,
        turn: OpenTurn,
        head: str,
        blob: bytes,
        steps: Sequence[Step],
        *,
        complete: bool,
        release: bool = True,
    ) -> None:
        """Save one checkpoint and its steps, if the turn still holds the fence; a repeated commit is one commit.

        The message counts as answered with the last of its commits: whoever repeats it until then goes on with it.
        """
        ttl, turn.ending = self._ttl_of(turn), turn.ending or release
        changes = changes_with(turn, steps, last=release)
        steps, chain = sealed(turn, steps, self._audit_key, last=release or complete)
        args: list[Argument] = [turn.token, turn.head or "", head, blob, ttl, int(release)]
        args += int(complete or turn.wants_trail), steps_before_run(turn, steps)
        args += _answer(turn, steps) if release or complete else ("", 0)
        args += "" if turn.ended else turn.version, "" if turn.ttl is None else turn.ttl
        args += chain, int(turn.ended), self._longer, len(changes)
        args += [arg for message_id, record in changes for arg in (message_id, written(record))]
        args += [STEPS.pack(orjson.dumps(step)) for step in steps]
        asked = [Asked(self._commit, keys_of(turn.thread), args)]
        left = len(turn.effects) - sum(record is None for _, record in changes)
        settled = turn.marked if not left else None
        asked.append(
            self._index.committed(turn.thread, release=release, ttl=turn.ttl, settled=settled, ended=turn.ended)
        )
        asked += self._lives(turn.thread, turn.head, ttl)  # it is history now
        asked += self._lives(turn.thread, head, ttl if release and not left else 0)
        with turn.timing.of("store"):
            await self._mark_parked(turn, changes)
        committed = await self._committed(asked)
        if not committed[0]:
            await self._undo(turn, head, committed[1])
            raise TurnLost("another turn of this call has begun; nothing of this one was saved")
        turn.push = push_in(committed[1])
        turn.trail = [step_in(step) for step in committed[2]]
        turn.head, turn.closed, turn.chain = head, release, chain
        apply(turn, changes)
        turn.committed(steps)

    async def _committed(self, asked: Sequence[Asked]) -> Any:
        """Run the commit, and again if its answer was lost: what was committed already stays as it is.

        So a store that is started again is waited for, a little.
        """
        clock, wait = asyncio.get_running_loop().time, 0.0
        give_up = clock() + _COMMIT_SECONDS
        while True:
            try:
                return (await self._with_index(*asked))[0]
            except StoreUnavailable as error:
                if clock() + wait > give_up and wait:
                    raise SaveUnknown("the store did not confirm that the turn was saved") from error
            await asyncio.sleep(wait)
            wait = min(2 * wait, _COMMIT_SECONDS / 4) or _COMMIT_WAIT

    async def abandon(self, turn: OpenTurn) -> None:
        """Give the lease back; a turn that sent writes whose outcomes are not saved stays open, to be asked about.

        If the store does not answer, that is done once it does.
        """
        try:
            await self._give_back(turn)
        except StoreUnavailable:
            self._owed.owe(lambda: self._give_back(turn))
            raise

    async def _give_back(self, turn: OpenTurn) -> None:
        if turn.idle:
            await self.settle(turn, [(message_id, None) for message_id in turn.idle])
        if turn.unsettled:
            await self._let_it_go(turn, not turn.sent)
        else:
            await self._release(turn, ())

    async def send(self, turn: OpenTurn, record: Record, over: Sequence[str]) -> None:
        """Write down that a write is about to leave; the index knows of it before."""
        effect = record.effect
        args: list[Argument] = [turn.token, self._lease_ms, effect.message_id, written(record), *over]
        asked = Asked(self._send, _call_and_effects(turn.thread), args)
        with turn.timing.of("store"):
            async with answering():
                marked, sent = await together(self._server, [self._index.sending(turn.thread), asked])
                for answer in (marked, sent):
                    if isinstance(answer, Exception):
                        raise answer
        turn.marked = marked.decode()
        if not sent:
            raise TurnLost("another turn of this call has begun; nothing of this one was sent or saved")

    async def settle(self, turn: OpenTurn, changes: Sequence[Change]) -> None:
        """Write down what is known of writes now."""
        args: list[Argument] = [turn.token]
        args += [arg for message_id, record in changes for arg in (message_id, written(record))]
        await self._mark_parked(turn, changes)
        async with answering():
            if not await self._settle(keys=_call_and_effects(turn.thread), args=args):
                raise TurnLost("another turn of this call has begun")
        apply(turn, changes)

    async def _mark_parked(self, turn: OpenTurn, changes: Sequence[Change]) -> None:
        """Tell the index anew of a call of which a write is parked: a turn that took part in it before, and wakes up
        late, may take back only what it told itself."""
        if any(record is not None for _, record in changes):
            async with answering():
                (marked,) = await together(self._server, [self._index.sending(turn.thread)])
                if isinstance(marked, Exception):
                    raise marked

    async def parked(self, tenant: str) -> list[tuple[str, Record]]:
        """Look up the calls that may have writes whose outcomes are not known; forget those that have none."""
        scored = await self._index.with_effects(tenant)
        records = await self._records([thread for thread, _ in scored], NO_STEPS)
        found: list[tuple[str, Record]] = []
        for (thread, score), call in zip(scored, records, strict=True):
            effects = call.effects if call else ()
            found += [(thread, record) for record in effects if record.parked]
            if not effects and not (call and call.opened):
                await self._index.without_effects(thread, score)
        return sorted(found, key=lambda one: one[1].effect.sent_at)

    async def let_go(self, turn: OpenTurn, *, as_it_was: bool = False) -> None:
        """Let the lease run out now; once the store answers, if it does not."""
        try:
            await self._let_it_go(turn, as_it_was)
        except StoreUnavailable:
            self._owed.owe(lambda: self._let_it_go(turn, as_it_was))
            raise

    async def _let_it_go(self, turn: OpenTurn, as_it_was: bool = False) -> None:
        turn.closed = True
        args: list[Argument] = [turn.token, "", "", 0, ""]
        if as_it_was and turn.died is not None:
            args[1:] = orjson.dumps(turn.died.said), turn.died.after, int(turn.died.committed), turn.died_on
        async with answering():
            await self._let_go(keys=keys_of(turn.thread)[:1], args=args)

    async def _release(self, turn: OpenTurn, steps: Sequence[Step]) -> None:
        if turn.answered is not None:
            return
        turn.closed = True
        args: list[Argument] = [turn.token, self._ttl_of(turn), *_answer(turn, steps), self._longer]
        asked = Asked(self._abandon, keys_of(turn.thread), args)
        lives = self._lives(turn.thread, turn.head, 0 if turn.effects else self._ttl_of(turn))
        left, _ = await self._with_index(asked, self._index.abandoned(turn.thread, ttl=turn.ttl), *lives)
        await self._undo(turn, None, left)

    def _ttl_of(self, turn: OpenTurn) -> int:
        return self._ttl if turn.ttl is None else turn.ttl

    async def _undo(self, turn: OpenTurn, saved: str | None, left: int) -> None:
        """Put right what was written beside a call whose own script then found that there is no such turn."""
        thread = turn.thread
        if left == _ANOTHER:
            await self._index.mark(thread)
        elif left == _GONE:
            await self._index.drop(thread, trail=turn.head is None)  # a new call leaves none
        if self._checkpoint_key is not None:
            async with answering():
                head = await self._client.hget(keys_of(thread)[0], "head") if left == _ANOTHER else None
                lives = self._lives(thread, head.decode() if isinstance(head, bytes) else None, 0)
                await together(self._server, self._lives(thread, saved, self._ttl_of(turn)) + lives)

    def _lives(self, thread: str, head: str | None, seconds: int) -> list[Asked]:
        """Return what gives a stock saver's checkpoint as long to live as its call; 0 for ever."""
        if self._checkpoint_key is None or head is None or not (self._ttl or seconds):
            return []
        return [Asked(self._live, [self._checkpoint_key(thread, head)], [seconds and seconds + _LONGER])]

    async def aclose(self) -> None:
        """End what goes on beside the turns, and the connections that they use."""
        await self._owed.aclose()
        if isinstance(self._server, Link):
            await self._server.aclose()

    async def renew(self, turn: OpenTurn) -> None:
        """Hold the lease for its full time again."""
        async with answering():
            if not await self._renew(keys=keys_of(turn.thread)[:1], args=[turn.token, self._lease_ms]):
                raise TurnLost("another turn of this call has begun; nothing of this one is saved")

    async def delete(self, thread: str) -> bool:
        """Remove every key of the call, those of a stock saver under a lease: a new call must not lose its own."""
        if self._codec is not None:
            return await self._drop(thread, "")
        turn, _, _ = await self._take(thread, _New())
        if turn.effects:
            await self.abandon(turn)
            await self._refuse_to_drop(thread)
        return await self._forget(turn, "deleted")

    async def archive_due(self, tenant: str) -> int:
        """Archive what is due; any replica may."""
        return await self._trails.archive_due(tenant) if self._trails else 0

    async def _take(self, thread: str, new: "_New") -> tuple[OpenTurn, bytes | None, list[bytes]]:
        """Take the lease; return the turn, with the checkpoint and pending writes that `core` has for it."""
        turn = OpenTurn(thread, secrets.token_hex(8), "", None, calls=self, key=new.key, ttl=new.ttl)
        turn.body, turn.timing = new.body, new.timing
        turn.said = {**new.said, "at": datetime.now(UTC).isoformat(timespec="milliseconds")}
        opened = orjson.dumps(turn.said)
        ttl = self._ttl_of(turn)
        args: list[Argument] = [turn.token, self._lease_ms, opened, secrets.token_hex(16)]
        args += ttl and max(ttl, self._first_least), new.key or "", new.version, "" if new.ttl is None else new.ttl
        args += new.died or "", int(self._trails is not None)
        async with _giving_back(self._give_back_after, turn):
            asked = Asked(self._begin, [*keys_of(thread), followed_key(thread)], args)
            touched = self._index.begun(thread, ttl=new.ttl, resumes=new.resumes)
            while (told := await self._with_index(asked, touched))[0][0] == _WAITS and self._trails:
                await self._trails.archive(thread, "expired")
            began, marked = told
        if not began[0]:
            raise Busy("another turn of this call is in flight")
        turn.incarnation, turn.push = (began[1] or b"").decode(), push_in(began[2])
        if began[0] == _ANSWERED:
            number, _, turn.answered_body = began[3].decode().partition(" ")
            turn.answered, turn.closed = int(number), True
        if marked == 1 and (turn.closed or (began[5] is None and not new.resumes)):  # it may expire
            async with _giving_back(self._give_back_after, turn):
                await self._index.unmark(thread)
        if turn.closed:
            return turn, None, []
        turn.after, turn.followed = began[3].decode(), began[4] > 0
        turn.head = began[5].decode() if began[5] else None
        turn.version, turn.ttl = (began[8] or b"").decode(), int(began[9]) if began[9] else None
        if began[10]:
            turn.died, turn.died_on = died_in(began[10])
        turn.effects = {record.effect.message_id: record for record in map(read, began[11][1::2])}
        turn.chain = (began[12] or b"").decode()
        return turn, began[6], began[7]

    async def _with_index(self, asked: Asked, touched: Asked, *more: Asked) -> tuple[Any, Any]:
        """Run a script of the call, and that of the index beside it, in one round trip; return both answers."""
        async with answering():
            answer, indexed, *_ = await together(self._server, [asked, touched, *more])
            if isinstance(answer, Exception):
                raise answer
        warn(indexed)
        return answer, indexed

    async def _give_back_after(self, turn: OpenTurn, error: BaseException) -> None:
        if isinstance(error, StoreUnavailable) and not isinstance(error, NotArchived):
            give_back = self._give_back if turn.incarnation else self._let_it_go
            self._owed.owe(lambda: give_back(turn), may_be_taken_yet=not turn.incarnation)
            return
        with suppress(StoreUnavailable):
            await asyncio.shield(asyncio.ensure_future(self.abandon(turn)))

    async def _forget(self, turn: OpenTurn, reason: Reason) -> bool:
        async with _giving_back(self._give_back_after, turn):
            if self._trails:
                await self._trails.archive(turn.thread, reason)
            if self._codec is None:
                async with answering():
                    await self._saver.adelete_thread(turn.thread)
            return await self._drop(turn.thread, turn.token)

    async def _refuse_to_drop(self, thread: str) -> None:
        call = await self.look(thread, NO_STEPS)
        names = (
            [record.parked or parked_name(thread, record.effect.message_id) for record in call.effects]
            if call
            else []
        )
        raise OutcomeUnknown(names)

    async def _drop(self, thread: str, token: str) -> bool:
        dropped = _NOT_ARCHIVED
        while dropped == _NOT_ARCHIVED:
            async with answering():
                dropped = int(await self._delete(keys=keys_of(thread), args=[token, int(self._trails is not None)]))
            if dropped == _NOT_ARCHIVED and self._trails:
                await self._trails.archive(thread, "deleted")
        if dropped == _UNKNOWN:
            await self._refuse_to_drop(thread)
        if dropped < 0:
            raise Busy("a turn of this call is in flight")
        await self._index.drop(thread, trail=True)
        return bool(dropped)


class _giving_back:  # noqa: N801  (used as a context, like the functions of contextlib, but it costs a fifth of them)
    """Give back the lease of a turn that its owner never got; as soon as the store answers, if it does not."""

    def __init__(self, give_back: Callable[[OpenTurn, BaseException], Awaitable[None]], turn: OpenTurn) -> None:
        self._give_back, self._turn = give_back, turn

    async def __aenter__(self) -> None:
        """Do nothing."""

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give it back if its owner does not get it."""
        if error is not None:
            await self._give_back(self._turn, error)


@dataclass(frozen=True, slots=True)
class _New:
    """What `begin` is asked."""

    said: Mapping[str, Any] = field(default_factory=dict)
    key: str | None = None
    version: str = ""
    ttl: int | None = None
    resumes: bool = False
    died: str | None = None
    body: str = ""
    timing: Timing = field(default_factory=Timing)


def _answer(turn: OpenTurn, steps: Sequence[Step]) -> tuple[str, str]:
    """Return what to remember of a message that has its answer: its key, and the step that answered it, with the hash
    of what the message said. What waits for a person is no answer."""
    if not turn.key or not steps or any(map(is_held, (*turn.steps, *steps))):
        return "", ""
    return turn.key, f"{steps[-1]['number']} {turn.body}".strip()


def _call_and_effects(thread: str) -> list[str]:
    keys = keys_of(thread)
    return [keys[0], keys[5]]
