"""The life of a call in the store: a turn is begun under a lease, then committed or abandoned; readers see commits.

`Calls` is what the server needs of any store. An `OpenTurn` goes with the run to the saver, so that what `begin`
loaded is not loaded again and what is saved is saved by the turn that holds the lease.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver, Checkpoint, CheckpointTuple, empty_checkpoint
from langgraph.constants import START as START_CHANNEL

from graph import audit
from graph.store.effects import Change, Record
from graph.store.errors import StoreError, StoreUnavailable
from graph.store.events import START
from nodes.state import LASTING, Step
from nodes.timing import Timing

_LONGEST_SAVE = 30.0
_BEFORE_INPUT = -2
"""How LangGraph counts the super-step before the first."""

TURN = "turn"
"""Where a run's `configurable` carries its open turn."""


@dataclass(slots=True)
class OpenTurn:
    """A turn that holds its call's lease."""

    thread: str
    token: str
    """The fence: a commit is refused once another turn has begun."""
    incarnation: str
    loaded: CheckpointTuple | None
    """The call as it was committed last; None for a new call."""
    head: str | None = None
    """The checkpoint committed last, also within this turn."""
    one_save: bool = True
    """Whether the run saves once, at its end, so that the save may also give the lease back."""
    closed: bool = False
    """Whether the lease was given back."""
    ending: bool = False
    """Whether the commit is on its way that gives it back."""
    rest: bool = False
    """Whether only the rest of its message is left to do: it goes on with a turn that has committed something."""
    calls: "Calls | None" = field(default=None, repr=False)
    """Where a stock saver has its checkpoints committed, if the run saves more than once."""
    saving: "asyncio.Task[Any] | None" = field(default=None, repr=False)
    """The task in which the run's save goes on, even if the run was cancelled during it."""
    saved: str | None = None
    """The checkpoint a stock saver wrote last; it counts once the commit names it."""
    trail: list[Step] = field(default_factory=list)
    """The audit trail of the run, once it is complete, is notified of, or was committed with `wants_trail`."""
    wants_trail: bool = False
    """Whether the commit returns the run's audit trail."""
    key: str | None = None
    """What names this very message: the commit remembers which step answered it."""
    body: str = ""
    """A hash of what it says, where the key is the client's own: another message may come under the same one."""
    answered: int | None = None
    """The number of the step that already answered the message of this `key`; then the turn holds no lease."""
    answered_body: str = ""
    """The hash of what that message said."""
    push: dict[str, Any] = field(default_factory=dict)
    """Where the call's clients want to be notified, by configuration id; as of the last commit or begin."""
    after: str = START
    """The position in the call's events just before the first of this turn."""
    followed: bool = False
    """Whether anybody watched the call's events when the turn began, on any replica."""
    version: str = ""
    """The flow version that the call is on, as `name digest`; commits note it until the run has ended."""
    died: "OpenedTurn | None" = None
    """The turn that this one took over from: its process died."""
    died_on: str = ""
    """The flow version that the call was on then."""
    ended: bool = False
    """Whether the run had ended in what is saved; then the call is on no version."""
    ttl: int | None = None
    """Seconds the call is kept after its last turn, where that is its own; None for the store's."""
    steps: list[Step] = field(default_factory=list)
    """The steps that were committed in this turn."""
    said: Mapping[str, Any] = field(default_factory=dict)
    """What the store was told of the turn."""
    chain: str = ""
    """The hash of the call's last step; empty before there is one."""
    effects: dict[str, Record] = field(default_factory=dict)
    """The writes whose outcomes are not committed, by message id: those of this turn, and what earlier ones left."""
    marks: dict[str, Record | None] = field(default_factory=dict)
    """What is known of some of them since: None if it is known what came of one, else how it is to be kept."""
    sent: set[str] = field(default_factory=set)
    """Those that this turn sent itself."""
    idle: set[str] = field(default_factory=set)
    """Those of them that certainly nobody acted on."""
    waiting: "list[asyncio.Future[None]]" = field(default_factory=list)
    """Those who wait for its next commit."""
    marked: str | None = None
    """When the index was told last that the call may have writes whose outcomes are not known, as it says it."""
    replaced: bool = False
    """Whether a later message takes the place of this one's: then it sends no write any more."""
    timing: Timing = field(default_factory=Timing)
    """Where its time goes."""

    @property
    def state(self) -> Mapping[str, Any]:
        """The call's state as it was committed last."""
        return self.loaded.checkpoint["channel_values"] if self.loaded else {}

    @property
    def unsettled(self) -> list[Record]:
        """The writes of which nobody has said yet what came of them: what was sent and not saved, by this turn or by
        one whose process died."""
        return [record for record in self.effects.values() if record.is_open]

    def committed(self, steps: Sequence[Step]) -> None:
        """Note the steps of a commit, and wake who waits for it."""
        self.steps += steps
        self._wake(None)

    @contextmanager
    def committing(self) -> Iterator[None]:
        """Tell who waits for a commit if it fails: their run ends with it, but not before they do."""
        try:
            yield
        except BaseException as error:
            self._wake(error if isinstance(error, StoreError) else StoreUnavailable("the turn was not saved"))
            raise

    def _wake(self, error: Exception | None) -> None:
        waiting, self.waiting = self.waiting, []
        for one in waiting:
            if one.done():
                continue
            if error is None:
                one.set_result(None)
            else:
                one.set_exception(error)

    async def until_committed(self, count: int) -> None:
        """Return once the call is committed up to so many steps; a run that saves once commits only at its end.

        Raises:
            StoreError: if the commit failed.
        """
        while not self.one_save and max(self._committed_steps()) < count:
            self.waiting.append(asyncio.get_running_loop().create_future())
            try:
                await asyncio.wait_for(self.waiting[-1], _LONGEST_SAVE)
            except TimeoutError as error:
                raise StoreUnavailable("what the run did before is not saved yet") from error

    def _committed_steps(self) -> tuple[int, int]:
        return self.state.get("step_count", 0), self.steps[-1]["number"] if self.steps else 0

    def basis(self, saver: BaseCheckpointSaver[Any]) -> CheckpointTuple | None:
        """Return the checkpoint that the run goes on from (`graph.entering`): with what the call remembers, and
        nothing of how its last run ended, which START would have cleared. That of a new call has nothing in it, but
        it is there: only a run that goes on may enter the graph anywhere."""
        if not self.one_save:
            return self.loaded
        if self.loaded is not None:
            known = self.loaded.checkpoint["channel_values"]
            remembered = {name: value for name, value in known.items() if name in LASTING}
            return self.loaded._replace(checkpoint={**self.loaded.checkpoint, "channel_values": remembered})
        version = saver.get_next_version(None, None)
        checkpoint: Checkpoint = {**empty_checkpoint(), "channel_versions": {START_CHANNEL: version}}
        config: RunnableConfig = {"configurable": {"thread_id": self.thread, "checkpoint_ns": ""}}
        return CheckpointTuple(config, checkpoint, {"step": _BEFORE_INPUT}, None, [])

    def config(self) -> RunnableConfig:
        """Return the configuration of the run that this turn is."""
        return {"configurable": {"thread_id": self.thread, TURN: self}}


@dataclass(frozen=True, slots=True)
class CallRecord:
    """A call as readers see it."""

    state: Mapping[str, Any]
    """As committed last; empty while the first turn has committed nothing, and where only steps were asked for."""
    steps: Sequence[Step]
    incarnation: str = ""
    opened: "OpenedTurn | None" = None
    """The turn that is open now, or was when its process died."""
    version: str = ""
    """The flow version that the call is on, as `name digest`; empty between runs."""
    effects: Sequence[Record] = ()
    """Its writes whose outcomes are not committed."""
    chain: str = ""
    """The hash of its last step; empty before there is one."""


@dataclass(frozen=True, slots=True)
class OpenedTurn:
    """What readers see of an open turn."""

    token: str
    live: bool
    """Whether it holds its lease; if not, its process died and nobody answers it."""
    said: Mapping[str, Any]
    """What `begin` was given to say of it, and `at`: when it began (ISO 8601)."""
    after: str = START
    """The position in the call's events just before the first of this turn; `START` if it is not known."""
    committed: bool = False
    """Whether something of it was committed."""


@dataclass(frozen=True, slots=True)
class Moment:
    """A call's state after one turn."""

    checkpoint_id: str
    saved_at: str
    state: Mapping[str, Any]


class Calls(Protocol):
    """Where calls live. Every method may raise `StoreUnavailable`."""

    @property
    def lease(self) -> float:
        """Seconds a turn may hold a call without renewing."""

    @property
    def saver(self) -> BaseCheckpointSaver[Any]:
        """Where the states of the calls are saved."""

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
        """Take the lease and load the call, in one round trip where the store can.

        Args:
            thread: the call.
            said: JSON-native, what readers may know of the turn while it is open.
            key: names this very message; if a step has answered it, the turn returned says so and holds no lease.
            version: the flow version that the call is on if it is new, as `name digest`.
            ttl: seconds the call is kept after its last turn from now on; None leaves that as it is.
            resumes: whether the turn is to be gone on with if its process dies, so that `dead` tells of it.
            died: the token of the dead turn that this one goes on with; then it is refused in place of any other.
            body: a hash of what the message says, remembered with its key.
            timing: where the time goes that is spent on the turn.

        Raises:
            Busy: if another turn holds the lease.
        """

    async def keep(self, turn: OpenTurn, steps: Sequence[Step], *, complete: bool) -> None:
        """Commit what a stock saver saved last, and go on with the turn.

        Raises:
            TurnLost: if the lease moved on.
        """

    async def finish(self, turn: OpenTurn, steps: Sequence[Step], *, complete: bool) -> None:
        """Commit what the run saved, unless its saver already has, and give the lease back.

        Raises:
            TurnLost: if the lease moved on; nothing of the turn is kept.
        """

    async def abandon(self, turn: OpenTurn) -> None:
        """Give the lease back with nothing more saved; a new call leaves no trace."""

    async def let_go(self, turn: OpenTurn, *, as_it_was: bool = False) -> None:
        """Give the lease back and leave the turn open, as if its process had died: another may go on with it.

        Args:
            turn: the turn.
            as_it_was: whether the turn that it took over from is left in its place.
        """

    async def renew(self, turn: OpenTurn) -> None:
        """Hold the lease for its full time again.

        Raises:
            TurnLost: if it moved on.
        """

    async def send(self, turn: OpenTurn, record: Record, over: Sequence[str]) -> None:
        """Write down that a write is about to leave, and forget those that it replaces.

        Raises:
            TurnLost: if the lease moved on.
        """

    async def settle(self, turn: OpenTurn, changes: Sequence[Change]) -> None:
        """Write down what is known of writes now.

        Raises:
            TurnLost: if the lease moved on.
        """

    async def parked(self, tenant: str) -> list[tuple[str, Record]]:
        """Return the tenant's writes that wait for a person, each with its thread, the oldest first."""

    async def read(self, thread: str) -> CallRecord | None:
        """Return the call with its audit trail, or None if there is none; a first turn that is open counts as one."""

    async def look(self, thread: str, after: int) -> CallRecord | None:
        """Return the call without its state, and of its steps only those after a number: cheap, if there are none."""

    async def trails(self, threads: Sequence[str]) -> list[CallRecord | None]:
        """Return the calls without their state, in one round trip where the store can."""

    async def recent(self, tenant: str) -> list[str]:
        """Return the tenant's calls, the one that took a turn last first."""

    async def dead(self, tenant: str) -> dict[str, CallRecord]:
        """Return the tenant's calls whose turn is open though its process died, without state and steps, by thread;
        not new calls in their first turn, unless that resumes."""

    async def on_versions(self, tenant: str) -> Mapping[str, int]:
        """Return how many of the tenant's calls are on each flow version (`name digest`), by looking at each."""

    async def push_of(self, thread: str) -> dict[str, Any]:
        """Return where the call's clients want to be notified, by configuration id."""

    async def change_push(self, thread: str, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        """Replace the notification configurations by what `change` makes of them, atomically; a call that does not
        exist is left alone."""

    async def history(self, thread: str) -> list[Moment]:
        """Return the state after each turn, oldest first."""

    async def delete(self, thread: str) -> bool:
        """Remove everything of the call; tell whether there was one.

        Raises:
            Busy: if a turn is in flight.
            OutcomeUnknown: if a write of it has an outcome that nobody knows.
            NotArchived: if its trail cannot be archived.
        """

    async def archive_due(self, tenant: str) -> int:
        """Archive what the tenant's calls leave behind that have ended or expired; return how many pieces that were.

        Raises:
            NotArchived: if the archive cannot be written; then nothing of them goes.
        """

    async def ping(self) -> None:
        """Return if the store answers.

        Raises:
            StoreUnavailable: if it does not.
        """


def turn_of(config: RunnableConfig) -> OpenTurn | None:
    """Return the turn that a run belongs to; Studio, notebooks and conformance tests have none."""
    turn = config.get("configurable", {}).get(TURN)
    return turn if isinstance(turn, OpenTurn) else None


def steps_before_run(turn: OpenTurn, steps: Sequence[Step]) -> int:
    """Return how many steps the call had when the run began to which a turn's new steps belong."""
    known = turn.state
    goes_on = not steps or steps[-1].get("run", 1) == known.get("run", 1)
    before: int = known.get("run_after", 0) if goes_on else known.get("step_count", 0)
    return before


def new_steps(turn: OpenTurn, values: Mapping[str, Any]) -> list[Step]:
    """Return the steps in `values` that the call did not have when the turn began, in order."""
    known = turn.state.get("step_count", 0)
    fresh = [step for step in values.get("steps") or [] if step["number"] > known]
    return sorted(fresh, key=lambda step: step["number"])


def sealed(turn: OpenTurn, steps: Sequence[Step], key: bytes, *, last: bool) -> tuple[list[Step], str]:
    """Return the steps as the audit trail has them, and where its chain goes on; the last of a turn says where the
    turn's time went."""
    chain = turn.chain or audit.start_of(turn.thread, turn.incarnation)
    told: list[Step] = []
    for step in steps:
        if last and step is steps[-1]:
            step = {**step, "timing": turn.timing.told()}
        step, chain = audit.sealed(step, chain, key)
        told.append(step)
    return told, chain if told else turn.chain


def is_worth_saving(turn: OpenTurn, values: Mapping[str, Any]) -> bool:
    """Tell whether the run has come further than the call was when the turn began: by a step, or by joining what was
    answered before. A run that failed or was cancelled before that leaves nothing behind."""
    return any((values.get(key) or None) != (turn.state.get(key) or None) for key in _PROGRESS)


_PROGRESS = ("step_count", "stage", "done", "asked", "ended", "is_complete")
