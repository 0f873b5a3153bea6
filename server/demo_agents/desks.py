"""Agents that do things: refund, billing, booking, complaint. A write is done once for each message id."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from itertools import count

from server.demo_agents.answer import Answer, Asked, File, Once, Recent
from server.demo_agents.money import amount_in, amount_of, spoken


class References:
    """Running references with a letter in front: R-000001, R-000002, …"""

    def __init__(self, letter: str) -> None:
        self._letter = letter
        self._numbers = count(1)

    def next(self) -> str:
        return f"{self._letter}-{next(self._numbers):06d}"


@dataclass(frozen=True, slots=True)
class Refund:
    """One paid refund, as the ledger keeps it."""

    reference: str
    amount: Decimal
    account_id: str
    message_id: str

    def as_json(self) -> dict[str, str]:
        return {
            "reference": self.reference,
            "amount": spoken(self.amount),
            "account_id": self.account_id,
            "message_id": self.message_id,
        }

    def as_answer(self) -> Answer:
        paid = spoken(self.amount)
        return Answer(
            f"Your refund of {paid} has been paid. Reference {self.reference}.",
            data={"refund": {"reference": self.reference, "amount": paid, "account_id": self.account_id}},
        )


class RefundDesk:
    """Offers refunds and pays them; the ledger, by message id, is what makes a repeated message pay once."""

    def __init__(self) -> None:
        self._references = References("R")
        self._offered: Recent[str, Decimal] = Recent()
        self._ledger: dict[str, Refund] = {}

    def __call__(self, asked: Asked) -> Answer:
        return self._pay(asked) if asked.intent == "process_refund" else self._offer(asked)

    def ledger(self) -> list[dict[str, str]]:
        """Every refund paid, oldest first."""
        return [refund.as_json() for refund in self._ledger.values()]

    def _offer(self, asked: Asked) -> Answer:
        named = amount_in(asked.text)
        amount = self._offered[asked.account_id] = named or amount_of("last order", asked.account_id, 500)
        what = "" if named else ", your last order"
        return Answer(f"I can make a refund of {spoken(amount)}{what}. Shall I go ahead?")

    def _pay(self, asked: Asked) -> Answer:
        refund = self._ledger.get(asked.message_id)
        if refund is None:
            reference = self._references.next()
            refund = Refund(reference, self._amount(asked), asked.account_id, asked.message_id)
            self._ledger[asked.message_id] = refund
        return refund.as_answer()

    def _amount(self, asked: Asked) -> Decimal:
        offered = self._offered.pop(asked.account_id, None)
        return amount_in(asked.text) or offered or amount_of("last order", asked.account_id, 500)


class BillingDesk:
    """Tells the open bill of an account and takes payments."""

    def __init__(self) -> None:
        self._references = References("P")
        self._once = Once()

    def __call__(self, asked: Asked) -> Answer:
        if asked.intent == "process_payment":
            return self._once(asked, self._pay)
        bill = spoken(amount_of("bill", asked.account_id, 200))
        return Answer(f"Your bill is {bill} USD, due at the end of the month. Shall I take the payment?")

    def _pay(self, asked: Asked) -> Answer:
        amount = spoken(amount_in(asked.text) or amount_of("bill", asked.account_id, 200))
        return Answer(f"Your payment of {amount} has been received. Reference {self._references.next()}.")


class BookingDesk:
    """Reserves, and confirms the reservation that is pending for the account."""

    def __init__(self) -> None:
        self._references = References("B")
        self._pending: Recent[str, str] = Recent()
        self._once = Once()

    def __call__(self, asked: Asked) -> Answer:
        return self._once(asked, self._confirm if asked.intent == "confirm_booking" else self._reserve)

    def _reserve(self, asked: Asked) -> Answer:
        reference = self._pending[asked.account_id] = self._references.next()
        text = f"I have made reservation {reference} for you. Shall I confirm it?"
        return Answer(text, data=_booking(reference, asked, "pending"))

    def _confirm(self, asked: Asked) -> Answer:
        reference = self._pending.pop(asked.account_id, None) or self._references.next()
        text = f"Your booking is confirmed. Reference {reference}."
        return Answer(text, data=_booking(reference, asked, "confirmed"))


def _booking(reference: str, asked: Asked, status: str) -> dict[str, dict[str, str]]:
    return {"booking": {"reference": reference, "account_id": asked.account_id, "status": status}}


class ComplaintDesk:
    """Takes complaints, gives a receipt as a file, and resolves the last complaint of an account."""

    def __init__(self) -> None:
        self._references = References("C")
        self._open: Recent[str, str] = Recent()
        self._once = Once()

    def __call__(self, asked: Asked) -> Answer:
        return self._once(asked, self._resolve if asked.intent == "resolve_complaint" else self._take)

    def _take(self, asked: Asked) -> Answer:
        reference = self._open[asked.account_id] = self._references.next()
        receipt = f"Complaint {reference}\nAccount {asked.account_id}\n\n{asked.text}\n"
        return Answer(
            f"I am sorry to hear that. Your complaint has reference {reference}; the receipt is attached.",
            file=File(f"complaint-{reference}.txt", "text/plain", receipt.encode()),
        )

    def _resolve(self, asked: Asked) -> Answer:
        reference = self._open.pop(asked.account_id, None)
        which = f"Your complaint {reference}" if reference else "Your complaint"
        return Answer(f"{which} is resolved. Thank you for your patience.")
