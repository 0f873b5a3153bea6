"""What may name a call, an account or an intent: opaque text that fits in a URL, a key and a log line."""

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

ID_LENGTH = 200
MESSAGE_LENGTH = 32_000

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
"""What Unicode calls Cc and Cs."""


def _legal_id(value: str) -> str:
    if not value.strip():
        raise ValueError("it is blank; give it a name")
    if "/" in value or value in (".", ".."):
        raise ValueError("it has to fit in a URL's path; leave out '/' and do not call it '.' or '..'")
    return _no_controls(value)


def _no_controls(value: str) -> str:
    if _CONTROL.search(value):
        raise ValueError("it holds a control character or half a character; send text")
    return value


def _absent_if_blank(value: Any) -> Any:
    return value.strip() or None if isinstance(value, str) else value


Id = Annotated[str, Field(min_length=1, max_length=ID_LENGTH), AfterValidator(_legal_id)]
IntentName = Annotated[str, Field(min_length=1, max_length=ID_LENGTH), AfterValidator(_no_controls)]
Intent = Annotated[
    Annotated[str, Field(max_length=ID_LENGTH), AfterValidator(_no_controls)] | None,
    BeforeValidator(_absent_if_blank),
]
