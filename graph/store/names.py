"""Names of threads and keys: injective and case-safe, because the stock saver matches thread ids without regard to
case and finds nothing for ids with commas."""

import re

PREFIX = "flows:"

_PARTS = ("call", "checkpoints", "steps", "writes", "keys", "effects", "audit", "events")
_SAFE = re.compile(r"[a-z0-9_]+")
_PLAIN = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789")


def thread_name(tenant: str, call_identify_id: str) -> str:
    """Return the LangGraph thread of a call: `default__call_2d1` for `call-1` of tenant `default`."""
    return f"{encode(tenant)}__{encode(call_identify_id)}"


def tenant_of(thread_id: str) -> str:
    """Return the tenant of a call's thread, as `encode` writes it."""
    return thread_id.partition("__")[0]


def encode(text: str) -> str:
    """Keep small letters and digits; write every other byte as `_` and two hex digits."""
    return "".join(chr(byte) if byte in _PLAIN else f"_{byte:02x}" for byte in text.encode())


def decode(text: str) -> str:
    """Undo `encode`."""
    return re.sub(rb"_([0-9a-f]{2})", lambda match: bytes.fromhex(match[1].decode()), text.encode()).decode()


def tag_of(thread_id: str) -> str:
    """Return what stands for a thread in key names; any thread id has one of its own."""
    return thread_id if _SAFE.fullmatch(thread_id) else "~" + encode(thread_id)


def thread_of(tag: str) -> str:
    """Undo `tag_of`."""
    return decode(tag[1:]) if tag.startswith("~") else tag


def keys_of(thread_id: str) -> list[str]:
    """Return the keys of a call, in the order in which the scripts name them."""
    stem = f"{PREFIX}{{{tag_of(thread_id)}}}"
    return [f"{stem}:{part}" for part in _PARTS]


def events_key(thread_id: str) -> str:
    """Return the key of a call's events, which is also the channel that wakes who watches them."""
    return keys_of(thread_id)[-1]


def followed_key(thread_id: str) -> str:
    """Return the key that says, on a cluster, that somebody watches a call's events."""
    return events_key(thread_id).removesuffix("events") + "followed"
