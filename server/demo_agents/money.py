"""Amounts of money: found in what a caller says, or made up, always the same for the same account."""

from __future__ import annotations

import re
from decimal import Decimal
from zlib import crc32

_NUMBER = r"([0-9]{1,3}(?:,[0-9]{3}){1,3}(?:\.[0-9]{1,2})?|[0-9]{1,9}(?:\.[0-9]{1,2})?)(?![0-9])"
_MARKED = re.compile(r"(?:\$|USD)\s?" + _NUMBER)
# "order 4711" and "#4711" are names of things, not sums.
_PLAIN = re.compile(r"(?<!order )(?<!number )(?<![\w#.,-])" + _NUMBER + r"(?![\w-])")


def amount_in(text: str) -> Decimal | None:
    """The first sum in `text`, or the first with a currency sign; None if there is none or it is zero."""
    found = _MARKED.search(text) or _PLAIN.search(text)
    if found is None:
        return None
    amount = Decimal(found[1].replace(",", "")).quantize(Decimal("0.01"))
    return amount or None


def amount_of(what: str, account_id: str, limit: int = 10_000) -> Decimal:
    """An invented amount for `what` of an account, such as its last order: from 1.00 to below `limit` + 1."""
    cents = 100 + crc32(f"{what}:{account_id}".encode()) % (limit * 100)
    return Decimal(cents) / 100


def spoken(amount: Decimal) -> str:
    """An amount as text with two decimals."""
    return f"{amount:.2f}"
