"""Taking what people said out of an archive: their words go, the commitments to them stay, every seal holds."""

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from graph.archive import MOST_BYTES, Line, lines, locked, opened, sync, written
from graph.audit import ERASABLE, erased, erasures

if TYPE_CHECKING:
    from nodes.state import Step

_CUT_OFF = b'{"erased":"what a crash had cut off"'


def erase(
    file: Path, tenant: str, call: str, *, fields: Iterable[str] = ERASABLE, numbers: Iterable[int] | None = None
) -> int:
    """Take what people said out of a call's steps in a file; return how many fields were erased. Blocks.

    Args:
        file: replaced by one that still verifies.
        tenant: whose call it is.
        call: the call; all of that name.
        fields: which fields.
        numbers: which steps; None for all.

    Raises:
        OSError: if the file cannot be read or replaced; then it is as it was.
    """
    only, wanted = list(fields), None if numbers is None else set(numbers)

    def changed(step: Any) -> Any:
        if isinstance(step, dict) and (wanted is None or step.get("number") in wanted):
            for field in only:
                step = erased(cast("Step", step), field)
        return step

    file = file.resolve()
    with locked(file.parent), file.open("rb") as old:
        return _replace(file, old, lambda line: _changed(line, tenant, call, changed))


def _changed(line: Line, tenant: str, call: str, change: Callable[[Any], Any]) -> tuple[bytes, int]:
    """Return what stands in place of a line, and how many fields of it were erased."""
    document = line.document
    if document is None:  # what a crash cut off was written again; nobody can tell the words in it from the rest
        if json.dumps(call, ensure_ascii=False).encode() not in line.raw:
            return line.raw, 0
        return _CUT_OFF + b"\n" * line.whole, 1
    if (document.get("tenant"), document.get("call_identify_id")) != (tenant, call):
        return line.raw, 0
    if not isinstance(document.get("steps"), list):
        return line.raw, 0
    steps = [change(step) for step in document["steps"]]
    count = sum(map(_erased, steps)) - sum(map(_erased, document["steps"]))
    return (written({**document, "steps": steps}), count) if count else (line.raw, 0)


def _erased(step: Any) -> int:
    return len(erasures(step)) if isinstance(step, dict) else 0


def _replace(file: Path, old: BinaryIO, change: Callable[[Line], tuple[bytes, int]]) -> int:
    new, count = file.with_name(f".{file.name}.new"), 0
    try:
        with os.fdopen(opened(new, os.O_WRONLY | os.O_TRUNC), "wb") as output:
            for line in lines(old):
                if len(line.raw) >= MOST_BYTES:
                    raise OSError(f"{str(file)!r}: line {line.number} is too long to be one of ours; nothing erased")
                raw, erased_here = change(line)
                count += erased_here
                output.write(raw)
            output.flush()
            os.fsync(output.fileno())
        if count:
            new.replace(file)
            sync(file.parent)
    finally:
        new.unlink(missing_ok=True)
    return count
