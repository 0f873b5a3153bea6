"""The story that clients of every maker and version play against the call flow, and what each of them must see."""

from typing import Any

TURNS: list[tuple[str, str, bool]] = [
    ("greeting", "Hello, I need help", False),
    ("authenticate", "It is me", False),
    ("otp_verify", "My code is 123456", False),
    ("account_inquiry", "What about my account?", True),
    ("update_account", "Yes, change it", False),
    ("closing", "Bye", True),
]
"""Intent, words, and whether the turn is streamed."""

WELCOME = "Welcome to customer service. How can I help you today?"
ASKED = "I have sent a one-time code to your phone. Please tell me the code. (demo code: 123456)"
VERIFIED = "Thank you, your code is right."
ACTIVE = "Your account ACC-1 is active. What would you like to change?"
UPDATED = "Your account ACC-1 has been updated."
GOODBYE = "Thank you for calling. How would you rate this call, from 1 to 5?"


def outcome(*, listed: bool) -> dict[str, Any]:
    """Return what a client tells that played the story, in the words of A2A 0.3.

    Each event of a stream is told by its kind and what it says; an artifact's id by the step that made it.
    """
    told: dict[str, Any] = {
        "card": {"name": "call", "skill": "greeting", "streaming": True},
        "turns": [
            _turn("input-required", WELCOME, 1),
            _turn("input-required", ASKED, 1),
            _turn("input-required", VERIFIED, 2),
            _turn(
                "input-required", ACTIVE, 3, [["artifact-update", "4", ACTIVE], ["status-update", "input-required"]]
            ),
            _turn("input-required", UPDATED, 4),
            _turn(
                "completed",
                GOODBYE,
                6,
                [
                    ["artifact-update", "6", GOODBYE],
                    ["artifact-update", "summary", ""],
                    ["status-update", "completed"],
                ],
            ),
        ],
        "shortened": [UPDATED, TURNS[5][1]],
        "history": [
            *[
                [role, words]
                for (_, asked, _), answer in zip(TURNS, _ANSWERS, strict=True)
                for role, words in (("user", asked), ("agent", answer))
            ][:-1]  # what was said last is the status
        ],
        "ended": "UnsupportedOperationError",
        "cancelled": ["canceled", "TaskNotCancelableError", "TaskNotFoundError"],
    }
    return told | ({"listed": [[True, "completed"]]} if listed else {})


_ANSWERS = [WELCOME, ASKED, VERIFIED, ACTIVE, UPDATED, GOODBYE]
_MADE = [WELCOME, VERIFIED, ACTIVE, UPDATED, GOODBYE, ""]


def _turn(state: str, said: str | None, made: int, events: list[list[str]] | None = None) -> dict[str, Any]:
    begun = [["task", "working"], ["status-update", "working"]]
    return {
        "state": state,
        "said": said,
        "made": _MADE[:made],
        "same": True,
        "events": [*begun, *events] if events else None,
    }
