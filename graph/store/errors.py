"""What can go wrong in the store, in one tree."""

from collections.abc import Sequence


class StoreError(Exception):
    """The store could not do what was asked."""


class StoreUnavailable(StoreError):
    """The store cannot be reached or does not answer; trying again later may help."""


class SaveUnknown(StoreUnavailable):
    """The store did not confirm a save: it may have happened or not."""


class NotArchived(StoreUnavailable):
    """An audit trail cannot be archived, so that nothing of it may go."""


class StoreRefused(StoreError):
    """The store is not fit for what the settings ask of it; the message names the setting."""


class Busy(StoreError):
    """Another turn of the call is in flight."""


class TurnLost(StoreError):
    """The lease moved on while the turn ran: a later turn owns the call, and nothing of this one was saved."""


class Replaced(StoreError):
    """A later message of the call has taken the place of this one, which is not answered; nothing of it was saved."""


class OutcomeUnknown(StoreError):
    """Nobody knows what came of a write of the call, so that it may make no other one.

    Attributes:
        parked: the names by which such writes are settled.
    """

    def __init__(self, parked: Sequence[str]) -> None:
        named = ", ".join(repr(name) for name in parked)
        super().__init__(
            f"it is not known what came of a write of this call: {named}; until that is settled "
            "(`flows resolve`, POST /parked/{id}/resolve) the call makes no other write, and all else of it goes on"
        )
        self.parked = list(parked)
