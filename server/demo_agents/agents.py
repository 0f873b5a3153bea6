"""The ten demo agents on one screen: where each listens, which dialect of A2A it speaks, what it answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, TypeAlias

from server.demo_agents import desks, talkers
from server.demo_agents.answer import Behaviour
from server.demo_agents.auth import Auth

Dialect: TypeAlias = Literal["0.3", "1.0"]


@dataclass(frozen=True, slots=True)
class DemoAgent:
    """One row of the table; `agent` makes a behaviour with a memory of its own."""

    port: int
    dialect: Dialect
    agent: Callable[[], Behaviour]
    about: str
    intents: tuple[str, ...]


def _row(port: int, dialect: Dialect, agent: Callable[[], Behaviour], about: str, intents: str) -> DemoAgent:
    return DemoAgent(port, dialect, agent, about, tuple(intents.split()))


AGENTS: Mapping[str, DemoAgent] = MappingProxyType(
    {
        "greeting": _row(8001, "1.0", lambda: talkers.greeting, "Welcomes callers.", "greeting welcome"),
        "auth": _row(8002, "0.3", Auth, "Verifies who is calling.", "verify_identity authenticate otp_verify"),
        "refund": _row(8003, "1.0", desks.RefundDesk, "Offers and pays refunds.", "refund_request process_refund"),
        "billing": _row(8004, "0.3", desks.BillingDesk, "Explains bills.", "billing_inquiry process_payment"),
        "booking": _row(8005, "0.3", desks.BookingDesk, "Makes bookings.", "booking_request confirm_booking"),
        "complaint": _row(8006, "0.3", desks.ComplaintDesk, "Takes complaints.", "complaint resolve_complaint"),
        "account": _row(
            8007, "1.0", lambda: talkers.account, "Looks after accounts.", "account_inquiry update_account"
        ),
        "balance": _row(8008, "1.0", lambda: talkers.balance, "Tells balances.", "balance_inquiry check_balance"),
        "closing": _row(8009, "1.0", lambda: talkers.closing, "Says goodbye.", "closing end_call feedback"),
        "fallback": _row(8010, "0.3", lambda: talkers.fallback, "Answers what nobody else can.", "unknown"),
    }
)
