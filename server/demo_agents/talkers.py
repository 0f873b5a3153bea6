"""Agents that only read and talk: greeting, closing, fallback, account and balance. They remember nothing."""

from __future__ import annotations

import re

from server.demo_agents.answer import Answer, Asked
from server.demo_agents.money import amount_of, spoken

_NAME = re.compile(r"(?:(?i:\bmy name is)|(\bI am|\bI'm))\s+([^\W\d_][\w'-]*)")
_RATING = re.compile(r"(?<![0-9])[1-5](?![0-9])")


def _name_in(text: str) -> str:
    for am, name in _NAME.findall(text):
        # "I am Maria" is a name, "I am angry" is not.
        if not am or name[0].isupper():
            return str(name)
    return ""


def greeting(asked: Asked) -> Answer:
    name = _name_in(asked.text)
    whom = f", {name}" if name else ""
    return Answer(f"Welcome to customer service{whom}. How can I help you today?", "message")


def closing(asked: Asked) -> Answer:
    rating = _RATING.search(asked.text) if asked.intent == "feedback" else None
    if rating:
        return Answer(f"Thank you for your rating of {rating[0]} out of 5. Goodbye.", "message")
    return Answer("Thank you for calling. How would you rate this call, from 1 to 5?", "message")


def fallback(asked: Asked) -> Answer:
    return Answer(
        "I am sorry, I did not understand that. You can ask for a refund, a bill, a booking, a complaint, "
        "your account or your balance.",
        "message",
    )


def account(asked: Asked) -> Answer:
    if asked.intent == "update_account":
        return Answer(f"Your account {asked.account_id} has been updated.")
    return Answer(f"Your account {asked.account_id} is active. What would you like to change?")


def balance(asked: Asked) -> Answer:
    available = spoken(amount_of("balance", asked.account_id))
    return Answer(
        f"Your available balance is {available} USD.",
        data={"balance": {"account_id": asked.account_id, "currency": "USD", "available": available}},
    )
