"""The truth: every effect that an agent had, in a file that outlives whoever is killed."""

import json
import os
import time
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Effect:
    """Something that an agent did and cannot undo."""

    agent: str
    message_id: str
    context_id: str
    intended: str
    """What the client wanted, once: a stage of a call."""
    receipt: str
    """Names this effect in the agent's answer."""
    at: float
    """Seconds since the epoch."""


class Ledger:
    """Where agents write down what they do; for their process."""

    def __init__(self, file: Path) -> None:
        self._file = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self._count = 0

    def write(self, agent: str, message_id: str, context_id: str, intended: str) -> str:
        """Write down one effect and return its receipt."""
        self._count += 1
        effect = Effect(agent, message_id, context_id, intended, f"{agent}-{self._count}", time.time())
        os.write(self._file, json.dumps(asdict(effect)).encode() + b"\n")
        return effect.receipt


class Books:
    """The ledger, for whoever looks into it."""

    def __init__(self, file: Path) -> None:
        file.touch()
        self._file = file.open("rb")
        self._rest = b""
        self._effects: list[Effect] = []

    def effects(self) -> list[Effect]:
        """Return every effect so far."""
        *lines, self._rest = (self._rest + self._file.read()).split(b"\n")
        self._effects += [Effect(**json.loads(line)) for line in lines]
        return self._effects

    def of_message(self, message_id: str) -> Effect | None:
        """Return the effect of a message, if it had one."""
        return next((effect for effect in self.effects() if effect.message_id == message_id), None)

    def by_intention(self) -> dict[str, list[Effect]]:
        """Return the effects of what each client wanted."""
        found: dict[str, list[Effect]] = defaultdict(list)
        for effect in self.effects():
            found[effect.intended].append(effect)
        return found

    def close(self) -> None:
        """Close the file."""
        self._file.close()
