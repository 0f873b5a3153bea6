"""Values that an enum of A2A does not have: protobuf, told to pass over what it does not know, passes over them too,
and a filter by a state that there is none of would be no filter at all."""

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from a2a.utils.errors import InvalidParamsError
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor

_WORD = re.compile(r"[\w-]{1,40}", re.ASCII)


def check_enums(sent: Mapping[str, Any], kind: Descriptor, *where: str) -> None:
    """Raise `InvalidParamsError` for a value that its enum does not have, in the message or in one within it.

    Args:
        sent: the message as JSON, which protobuf could read.
        kind: what message it is.
        where: the fields that lead to it, for the error.
    """
    for name, field in _leading_to_enums(kind).items():
        value = sent.get(name)
        for one in value if isinstance(value, list) else [value]:
            if one is None:
                continue
            if field.enum_type is None:
                check_enums(one, field.message_type, *where, name)
            elif not _has(field.enum_type, one):
                raise InvalidParamsError(f"{'.'.join((*where, name))}: {_known(field.enum_type, one)}")


@lru_cache(maxsize=64)
def _leading_to_enums(kind: Descriptor) -> Mapping[str, FieldDescriptor]:
    """Return the fields that are enums or have one within, by every name that protobuf reads them under."""
    leading = [field for field in kind.fields if _leads_to_enum(field, frozenset())]
    return {name: field for field in leading for name in (field.json_name, field.name)}


def _leads_to_enum(field: FieldDescriptor, above: frozenset[str]) -> bool:
    if field.enum_type is not None:
        return True
    within = field.message_type
    # Google's own messages are JSON of any form, whose only enum is null.
    if within is None or within.full_name in above or within.full_name.startswith("google.protobuf."):
        return False
    return any(_leads_to_enum(inner, above | {within.full_name}) for inner in within.fields)


def _has(enum: EnumDescriptor, value: Any) -> bool:
    try:
        return value in enum.values_by_name or int(value) in enum.values_by_number
    except (TypeError, ValueError):
        return False


def _known(enum: EnumDescriptor, value: Any) -> str:
    said = repr(value) if isinstance(value, int) or _WORD.fullmatch(value) else "it"
    names = [each.name for each in enum.values if each.number]  # the first is "unspecified"
    return f"{said} is not one of its values; send {', '.join(names[:-1])} or {names[-1]}"
