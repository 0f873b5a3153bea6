"""The chain over the audit trail: every step carries a hash over the one before it, so that no step can be changed,
taken away, put in or moved unseen; and what people said goes in as salted commitments, so that it can be erased.
Pure: where trails are kept is the store's and the archive's business.

    start ── hash of step 1 ── hash of step 2 ── … ── head          hash = H(the one before, commitments, the rest)

`docs/audit.md` says byte for byte what is hashed, and has a verifier of its own.
"""

import base64
import hashlib
import hmac
import json
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:  # the state imports LangGraph, and `flows audit` has no need to wait for that
    from nodes.state import Step

WORDS = ("input_message", "response_data", "parts", "layout", "tried", "resolution")
"""The fields that hold what people said, or may quote it: what the caller sent (`input_message`, `parts`), what
agents and people answered (`response_data`, with names and metadata of theirs in `layout`), errors in an agent's own
words (`tried`), and why a person decided something (`resolution`). All others are names, numbers, times of ours."""

ERASABLE = tuple(field for field in WORDS if field != "resolution")
"""What is erased unless fields are named: who settled a parked write, and why, is erased only by name."""

AUDIT = "audit"

_SALT_BYTES = 16
_BLANKS: Mapping[str, Any] = {"input_message": "", "response_data": {"erased": True}}
"""What readers find in place of erased words that a step must have; other fields are left out."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that is not as it was sealed."""

    step: int | None
    """The step's number; None if it concerns the trail as a whole."""
    what: str


def start_of(thread: str, incarnation: str) -> str:
    """Return where a call's chain begins: another call's steps, or last week's, do not fit there."""
    return _text(hashlib.sha256(_canonical(["flows audit 1", thread, incarnation])).digest())


def sealed(step: "Step", before: str, key: bytes = b"") -> tuple["Step", str]:
    """Return the step with its seal, and its hash: the chain so far.

    Args:
        step: what is to be sealed; a seal that it has is replaced.
        before: the hash of the step before it, or the chain's start.
        key: makes the hash one that only who has the key can make.
    """
    fields = [field for field in WORDS if field in step]
    salts = secrets.token_bytes(_SALT_BYTES * len(fields))
    told, said = {}, {}
    for place, field in enumerate(fields):
        salt = salts[place * _SALT_BYTES : (place + 1) * _SALT_BYTES]
        told[field] = _text(salt)
        said[field] = _commitment(salt, step[field])  # type: ignore[literal-required]
    head = _hash(before, step, said, key)
    return cast("Step", {**step, AUDIT: {"hash": head, "salts": told}}), head


def erased(step: "Step", field: str) -> "Step":
    """Return the step without what a field said: its commitment stays, so that the chain holds.

    A step that has nothing there is returned as it is. One that was tampered with loses its words all the same, and
    stays broken.
    """
    if field not in WORDS:
        raise ValueError(f"{field!r} holds nothing that people said; choose among {', '.join(WORDS)}")
    audit = step.get(AUDIT)
    seal: dict[str, Any] = dict(audit) if isinstance(audit, dict) else {}
    gone: dict[str, Any] = dict(seal["erased"]) if isinstance(seal.get("erased"), dict) else {}
    if field not in step or field in gone:
        return step
    salts = dict(seal["salts"]) if isinstance(seal.get("salts"), dict) else {}
    gone[field] = _committed(salts.pop(field, None), step[field]) or ""  # type: ignore[literal-required]
    left: dict[str, Any] = {name: value for name, value in step.items() if name != field or field in _BLANKS}
    if field in _BLANKS:
        left[field] = _BLANKS[field]
    return cast("Step", {**left, AUDIT: {**seal, "salts": salts, "erased": gone}})


def erasures(step: Mapping[str, Any]) -> list[str]:
    """Return the fields of a step that were erased."""
    audit = step.get(AUDIT)
    gone = audit.get("erased") if isinstance(audit, dict) else None
    return list(gone) if isinstance(gone, dict) else []


def verify(
    steps: Iterable[Any],
    start: str,
    *,
    head: str | None = None,
    count: int | None = None,
    key: bytes = b"",
    first: int = 1,
) -> list[Fault]:
    """Return what is wrong with a trail, or a piece of one; never raises, whatever the steps are.

    Args:
        steps: as they were read.
        start: the chain before the first of them.
        head: the hash of the last one; None if it is not known: then nobody can tell whether the last are missing.
        count: the number of the last one, None likewise.
        key: with which they were sealed.
        first: the number of the first one.
    """
    faults: list[Fault] = []
    before, number = start, first - 1
    for number, step in enumerate(steps, first):
        found, reason = _checked(step, before, key)
        if reason:
            faults.append(_fault(step, number, reason))
        before = found or before
    if count is not None and number != count:
        faults.append(Fault(None, f"the trail ends with step {number}, and should with step {count}"))
    if head is not None and before != head:
        faults.append(Fault(None, "the trail does not end with the hash that was kept of its last step"))
    return faults


def hash_over(before: str, document: Mapping[str, Any], key: bytes) -> str:
    """Return the next hash of a chain, over the one before and a JSON document."""
    whole = f"{before}\n".encode() + _canonical(document)
    return _text(hmac.digest(key, whole, "sha256") if key else hashlib.sha256(whole).digest())


def _checked(step: Any, before: str, key: bytes) -> tuple[str | None, str]:
    """Return the hash that a step says it has, and what is wrong with the step."""
    audit = step.get(AUDIT) if isinstance(step, dict) else None
    if not isinstance(audit, dict):
        return None, "is not sealed" if isinstance(step, dict) else "is no step"
    told = audit.get("hash")
    told = told if isinstance(told, str) else None
    try:
        said = _said(step, audit)
        if said is None:
            return told, "has a seal that we did not make, or words where they were erased"
        right = _hash(before, step, said, key) == told
    except (TypeError, ValueError, RecursionError):
        return told, "holds what no JSON of ours holds"
    return told, "" if right else "was changed, or what came before it is missing, new or in another place"


def _said(step: Mapping[str, Any], audit: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the commitments to what people said in a step, or None if the seal is not one that we make: what may be
    written into a seal unseen would be a place to hide things in."""
    salts, gone = audit.get("salts"), audit.get("erased", {})
    if not (isinstance(salts, dict) and isinstance(gone, dict) and {"hash", "salts"} <= audit.keys()):
        return None
    if audit.keys() - {"hash", "salts", "erased"} or salts.keys() & gone.keys():
        return None
    if not all(field in step for field in salts) or not all(_is_blank(step, field) for field in gone):
        return None
    said = {field: _committed(salt, step[field]) for field, salt in salts.items()} | gone
    return said if all(isinstance(commitment, str) for commitment in said.values()) else None


def _is_blank(step: Mapping[str, Any], field: str) -> bool:
    if field not in _BLANKS:
        return field not in step
    return field in step and _canonical(step[field]) == _canonical(_BLANKS[field])


def _committed(salt: Any, value: Any) -> str | None:
    """Return the commitment to a value with a salt as it is written in a step; None if that is no salt of ours."""
    try:
        salted = base64.b64decode(f"{salt}==", altchars=b"-_", validate=True)
        whole = len(salted) == _SALT_BYTES and _text(salted) == salt
        return _commitment(salted, value) if whole else None
    except (TypeError, ValueError, RecursionError):
        return None


def _commitment(salt: bytes, value: Any) -> str:
    return _text(hashlib.sha256(salt + _canonical(value)).digest())


def _hash(before: str, step: Mapping[str, Any], said: Mapping[str, str], key: bytes) -> str:
    # What is a commitment is told by the seal, not by `WORDS`, which may grow: a field that was added to a step is
    # hashed as it is, whatever its name.
    plain = {name: value for name, value in step.items() if name not in said and name != AUDIT}
    return hash_over(before, {"said": said, "step": plain}, key)


def _canonical(value: Any) -> bytes:
    """Return the JSON text of a value that is the same for ever.

    Python's own, not orjson's: 3.10 writes 1e16 where 3.13 writes 1e+16, and an upgrade would break every chain.
    """
    try:
        return _written(value).encode()
    except ValueError:  # infinity or no number: what the store and the wire have for that is null
        import orjson

        return _written(orjson.loads(orjson.dumps(value))).encode()


_written = json.JSONEncoder(sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode


def _text(binary: bytes) -> str:
    return base64.urlsafe_b64encode(binary).rstrip(b"=").decode()


def _fault(step: Any, expected: int, reason: str) -> Fault:
    number = step.get("number") if isinstance(step, dict) else None
    if type(number) is not int or number == expected:
        return Fault(expected, reason)
    return Fault(number, f"{reason} (it is where step {expected} should be)")
