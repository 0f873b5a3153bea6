"""Names of workflow documents, which may be any text, as names of the flow language; each way without loss.

content_sentiment  <->  content_sentiment          what is a name already, stays
Customer's name    <->  x__Customer_27s_20name     the rest is written so that no two become one
"""

import re
from collections.abc import Container

from graph.checks import RESERVED
from nodes.spec import ANSWER, INDEX, ITEM, KNOWN

_OF_STAGE, _OF_VARIABLE = "s__", "v__"
_STAGE = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
_VARIABLE = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
_LONGEST = 64
_CEL = frozenset(
    {
        *("as", "break", "const", "continue", "else", "false", "for", "function", "if", "import", "in", "let"),
        *("loop", "namespace", "null", "package", "return", "true", "var", "void", "while"),
    }
)
_TAKEN = KNOWN | {ANSWER, ITEM, INDEX}
_PLAIN = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789")


class NoName(ValueError):
    """A name that is too long for the flow language."""


def stage_name(step: str) -> str:
    """Return the name of a step's stage; raises `NoName`."""
    return _inner(step, _OF_STAGE, _STAGE, _TAKEN.union(RESERVED))


def variable_name(name: str, stages: Container[str]) -> str:
    """Return the name, one that expressions can read, by which a run knows something; raises `NoName`.

    Args:
        name: as the document has it.
        stages: the names of all stages, which mean their answers.
    """
    kept = _inner(name, _OF_VARIABLE, _VARIABLE, _CEL | _TAKEN)
    return _marked(name, _OF_VARIABLE) if kept in stages else kept


def is_variable(name: str) -> bool:
    """Tell whether an expression can read it."""
    return bool(_VARIABLE.fullmatch(name)) and name not in _CEL


def outer_name(inner: str) -> str:
    """Return the name as the document has it."""
    if not inner.startswith((_OF_STAGE, _OF_VARIABLE)):
        return inner
    text = inner[len(_OF_STAGE) :].encode()
    return re.sub(rb"_([0-9a-f]{2})", lambda match: bytes.fromhex(match[1].decode()), text).decode()


def slug(name: str, longest: int) -> str:
    """Return what is left of a name in small letters, digits and dashes; `workflow` if that is nothing."""
    letters = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    short = letters[:longest].rstrip("-")
    return short if re.match("[a-z]", short) else "workflow"


def _inner(name: str, mark: str, pattern: re.Pattern[str], taken: Container[str]) -> str:
    plain = pattern.fullmatch(name) and name not in taken and not name.startswith((_OF_STAGE, _OF_VARIABLE))
    return name if plain else _marked(name, mark)


def _marked(name: str, mark: str) -> str:
    marked = mark + "".join(chr(byte) if byte in _PLAIN else f"_{byte:02x}" for byte in name.encode())
    if len(marked) > _LONGEST:
        raise NoName(f"the name {_short(name)!r} is too long; use letters, digits and _, at most {_LONGEST}")
    return marked


def _short(name: str) -> str:
    return name if len(name) <= 40 else f"{name[:40]}…"
