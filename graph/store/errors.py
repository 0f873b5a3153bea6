"""What can go wrong in the store, in one tree."""


class StoreError(Exception):
    """The store could not do what was asked."""


class StoreUnavailable(StoreError):
    """The store cannot be reached or does not answer; trying again later may help."""


class SaveUnknown(StoreUnavailable):
    """The store did not confirm a save: it may have happened or not."""


class StoreRefused(StoreError):
    """The store is not fit for what the settings ask of it; the message names the setting."""


class Busy(StoreError):
    """Another turn of the call is in flight."""


class TurnLost(StoreError):
    """The lease moved on while the turn ran: a later turn owns the call, and nothing of this one was saved."""
