"""The seventeen demo agents on one screen: where each listens, which dialect of A2A it speaks, what it answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, TypeAlias

from server.demo_agents import desks, talkers
from server.demo_agents.answer import Behaviour
from server.demo_agents.auth import Auth
from server.demo_agents.data_analyzer import data_analyzer
from server.demo_agents.decision import decision
from server.demo_agents.handoff import HandoffDesk
from server.demo_agents.knowledge import knowledge
from server.demo_agents.text_processor import text_processor
from server.demo_agents.tickets import router, sentiment

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
        "router": _row(8011, "1.0", lambda: router, "Sorts tickets.", "route_ticket"),
        "knowledge": _row(8012, "0.3", lambda: knowledge, "Finds articles that answer.", "search_knowledge"),
        "sentiment": _row(8013, "1.0", lambda: sentiment, "Reads how a customer feels.", "read_sentiment"),
        "decision": _row(8014, "0.3", lambda: decision, "Resolves a ticket or escalates it.", "decide"),
        "text_processor": _row(
            8015,
            "1.0",
            lambda: text_processor,
            "Does small tasks on a text.",
            "sentiment_analysis text_summary keywords word_count extract classify refine format upper load",
        ),
        "data_analyzer": _row(
            8016,
            "0.3",
            lambda: data_analyzer,
            "Cleans data and reckons with it.",
            "data_validation statistical_analysis total trend risk",
        ),
        "handoff": _row(8017, "1.0", HandoffDesk, "Tells callers that a person takes over.", "escalate"),
    }
)
