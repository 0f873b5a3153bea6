"""The demo agents of a call, each called over a real socket in the dialect of A2A it speaks."""

from __future__ import annotations

import asyncio
import base64
import json
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any, TypeVar

import httpx
import pytest
from a2a.client import create_client
from a2a.helpers import get_artifact_text, get_message_text, new_text_message
from a2a.types import Role, SendMessageRequest, TaskState

from server.demo_agents import AGENTS, PortInUse, UnknownAgent, build_app, serve

T = TypeVar("T")

_ids = count(1)

TASK_NOT_FOUND = -32001
UNSUPPORTED = -32004
METHOD_NOT_FOUND = -32601
VERSION_NOT_SUPPORTED = -32009


@dataclass(frozen=True)
class Line:
    """A telephone line to the agents that are up."""

    http: httpx.AsyncClient
    urls: dict[str, str]

    async def say(self, name: str, text: str, intent: str = "", **fields: Any) -> dict[str, Any]:
        """What the agent answers to one message: its task or its bare message."""
        reply = await self.rpc(name, _method(name, "send"), {"message": _message(name, text, intent, fields)})
        result: dict[str, Any] = reply["result"]
        return next(iter(result.values())) if AGENTS[name].dialect == "1.0" else result

    async def refused(self, name: str, text: str, **fields: Any) -> int:
        """The error code with which the agent refuses one message."""
        reply = await self.rpc(name, _method(name, "send"), {"message": _message(name, text, "", fields)})
        return int(reply["error"]["code"])

    async def rpc(self, name: str, method: str, params: dict[str, Any]) -> dict[str, Any]:
        headers = {"A2A-Version": "1.0"} if "/" not in method else {}
        request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        reply = await self.http.post(self.urls[name], json=request, headers=headers)
        return dict(reply.json())


def _method(name: str, verb: str) -> str:
    new = {"send": "SendMessage", "get": "GetTask", "cancel": "CancelTask"}
    old = {"send": "message/send", "get": "tasks/get", "cancel": "tasks/cancel"}
    return (new if AGENTS[name].dialect == "1.0" else old)[verb]


def _message(name: str, text: str, intent: str, fields: dict[str, Any]) -> dict[str, Any]:
    new = AGENTS[name].dialect == "1.0"
    message = {
        "messageId": f"m-{next(_ids)}",
        "contextId": "CALL-1",
        "role": "ROLE_USER" if new else "user",
        "parts": [{"text": text} if new else {"kind": "text", "text": text}],
        "metadata": {"intent": intent, "account_id": "ACC-999", "eci": "ECI-7", "flow_id": 2},
    }
    message.update({} if new else {"kind": "message"})
    message.update(fields)
    return {key: value for key, value in message.items() if value is not None}


def _parts(reply: dict[str, Any]) -> list[dict[str, Any]]:
    """The parts of what was said, wherever a reply of that kind carries them."""
    if "artifacts" in reply:
        return list(reply["artifacts"][0]["parts"])
    message = reply["status"]["message"] if "status" in reply else reply
    return list(message["parts"])


def _text(reply: dict[str, Any]) -> str:
    return str(_parts(reply)[0]["text"])


def _state(reply: dict[str, Any]) -> str:
    return str(reply["status"]["state"]) if "status" in reply else "message"


@asynccontextmanager
async def _line(*names: str) -> AsyncIterator[Line]:
    async with serve(ports=dict.fromkeys(names or AGENTS, 0)) as urls, httpx.AsyncClient() as http:
        yield Line(http, urls)


def _call(story: Callable[[Line], Awaitable[T]], *names: str) -> T:
    async def run() -> T:
        async with _line(*names) as line:
            return await story(line)

    return asyncio.run(run())


def test_every_agent_answers_in_its_dialect() -> None:
    questions = {
        "greeting": ("Hello", "greeting"),
        "auth": ("My SSN is 123-45-6789", "verify_identity"),
        "refund": ("I want 20 back", "refund_request"),
        "billing": ("I pay $30", "process_payment"),
        "booking": ("a table for two", "booking_request"),
        "complaint": ("It is broken", "complaint"),
        "account": ("who am I?", "account_inquiry"),
        "balance": ("how much?", "balance_inquiry"),
        "closing": ("bye", "closing"),
        "fallback": ("blah", "unknown"),
    }

    async def story(line: Line) -> dict[str, tuple[str, str]]:
        replies = {name: await line.say(name, *question) for name, question in questions.items()}
        return {name: (_state(reply), _text(reply)) for name, reply in replies.items()}

    assert _call(story) == {
        "greeting": ("message", "Welcome to customer service. How can I help you today?"),
        "auth": ("completed", "Thank you, your identity is verified."),
        "refund": ("TASK_STATE_COMPLETED", "I can make a refund of 20.00. Shall I go ahead?"),
        "billing": ("completed", "Your payment of 30.00 has been received. Reference P-000001."),
        "booking": ("completed", "I have made reservation B-000001 for you. Shall I confirm it?"),
        "complaint": (
            "completed",
            "I am sorry to hear that. Your complaint has reference C-000001; the receipt is attached.",
        ),
        "account": ("TASK_STATE_COMPLETED", "Your account ACC-999 is active. What would you like to change?"),
        "balance": ("TASK_STATE_COMPLETED", "Your available balance is 5593.35 USD."),
        "closing": ("message", "Thank you for calling. How would you rate this call, from 1 to 5?"),
        "fallback": (
            "message",
            "I am sorry, I did not understand that. You can ask for a refund, a bill, a booking, "
            "a complaint, your account or your balance.",
        ),
    }


def test_the_card_has_the_form_of_the_dialect() -> None:
    async def story(line: Line) -> dict[str, Any]:
        cards = {}
        for name, url in line.urls.items():
            cards[name] = (await line.http.get(f"{url}/.well-known/agent-card.json")).json()
        for name, card in cards.items():
            if AGENTS[name].dialect == "1.0":
                interface = {
                    "url": line.urls[name],
                    "protocolBinding": "JSONRPC",
                    "protocolVersion": "1.0",
                }
                assert card["supportedInterfaces"] == [interface]
                assert "protocolVersion" not in card
            else:
                assert (card["protocolVersion"], card["preferredTransport"]) == ("0.3.0", "JSONRPC")
                assert card["url"] == line.urls[name]
                assert "supportedInterfaces" not in card
        return cards

    cards = _call(story)
    assert [skill["id"] for skill in cards["refund"]["skills"]] == ["refund_request", "process_refund"]


@pytest.mark.parametrize("intent", ["authenticate", "otp_verify"])
def test_a_code_is_asked_for_and_told_on_the_same_task(intent: str) -> None:
    async def story(line: Line) -> None:
        asked = await line.say("auth", "let me in", intent)
        assert _state(asked) == "input-required"
        assert _text(asked) == (
            "I have sent a one-time code to your phone. Please tell me the code. (demo code: 123456)"
        )
        told = await line.say("auth", "it is 123456", intent, taskId=asked["id"])
        assert (told["id"], _state(told)) == (asked["id"], "completed")
        assert _parts(told)[1]["data"] == {"verified": True, "method": "one_time_code"}

    _call(story, "auth")


def test_the_third_wrong_code_fails_the_task() -> None:
    async def story(line: Line) -> None:
        task = (await line.say("auth", "let me in", "otp_verify"))["id"]
        said = [await line.say("auth", words, taskId=task) for words in ("111111", "eh?", "222222", "333333")]
        assert [(_state(reply), _text(reply)[:20]) for reply in said] == [
            ("input-required", "That code is not rig"),
            ("input-required", "I have sent a one-ti"),
            ("input-required", "That code is not rig"),
            ("failed", "Too many wrong codes"),
        ]
        assert _parts(said[-1])[1]["data"] == {"verified": False, "method": "one_time_code"}
        assert await line.refused("auth", "123456", taskId=task) == UNSUPPORTED

    _call(story, "auth")


def test_an_identity_number_of_zeros_is_nobodys() -> None:
    async def story(line: Line) -> None:
        for words in ("0000", "it is 000-00-0000"):
            told = await line.say("auth", words, "verify_identity")
            assert (_state(told), _text(told)) == ("completed", "I could not verify your identity.")
            assert _parts(told)[1]["data"] == {"verified": False, "method": "identity_number"}
        corrected = await line.say("auth", "0000, sorry, 1234", "verify_identity")
        assert _parts(corrected)[1]["data"]["verified"] is True

    _call(story, "auth")


@pytest.mark.parametrize("words", ["I don’t have the code", "I never received it", "no code", "111111? I give up"])
def test_a_caller_without_a_code_is_not_verified(words: str) -> None:
    async def story(line: Line) -> None:
        task = (await line.say("auth", "let me in", "otp_verify"))["id"]
        told = await line.say("auth", words, taskId=task)
        assert (_state(told), _text(told)) == ("completed", "I could not verify you without the code.")
        assert _parts(told)[1]["data"] == {"verified": False, "method": "one_time_code"}

    _call(story, "auth")


def test_a_caller_without_a_number_is_not_verified() -> None:
    async def story(line: Line) -> dict[str, Any]:
        told = await line.say("auth", "I do not know my identity number", "verify_identity")
        assert _state(told) == "completed"
        return dict(_parts(told)[1]["data"])

    assert _call(story, "auth") == {"verified": False, "method": "identity_number"}


def test_tasks_do_not_share_their_wrong_codes() -> None:
    async def story(line: Line) -> None:
        mine, yours = [(await line.say("auth", "hello", "otp_verify"))["id"] for _ in range(2)]
        for _ in range(2):
            await line.say("auth", "000000", taskId=mine)
        assert _state(await line.say("auth", "000000", taskId=yours)) == "input-required"
        assert _state(await line.say("auth", "123 456", taskId=mine)) == "completed"

    _call(story, "auth")


def test_an_identity_number_is_asked_for_and_never_repeated() -> None:
    async def story(line: Line) -> None:
        asked = await line.say("auth", "It is me", "verify_identity")
        assert (_state(asked), _text(asked)) == ("input-required", "Please tell me your identity number.")
        told = await line.say("auth", "123 45 6789", "verify_identity", taskId=asked["id"])
        assert _text(told) == "Thank you, your identity is verified."
        assert _parts(told)[1]["data"] == {"verified": True, "method": "identity_number"}
        kept = await line.rpc("auth", "tasks/get", {"id": asked["id"]})
        assert "6789" not in json.dumps([told, kept])

    _call(story, "auth")


def test_a_follow_up_may_leave_out_the_context() -> None:
    async def story(line: Line) -> None:
        asked = await line.say("auth", "hi", "otp_verify")
        told = await line.say("auth", "123456", taskId=asked["id"], contextId=None)
        assert (told["contextId"], _state(told)) == ("CALL-1", "completed")

    _call(story, "auth")


@pytest.mark.parametrize("name", ["auth", "refund"])
def test_an_unknown_task_is_not_found(name: str) -> None:
    assert _call(lambda line: line.refused(name, "123456", taskId="no-such-task"), name) == TASK_NOT_FOUND


def test_a_parked_task_can_be_canceled() -> None:
    async def story(line: Line) -> None:
        task = (await line.say("auth", "hi", "otp_verify"))["id"]
        canceled = await line.rpc("auth", "tasks/cancel", {"id": task})
        assert _state(canceled["result"]) == "canceled"
        assert await line.refused("auth", "123456", taskId=task) == UNSUPPORTED

    _call(story, "auth")


def test_a_refund_is_paid_once_for_each_message() -> None:
    async def story(line: Line) -> None:
        offered = await line.say("refund", "Please refund order 4711: $49.99", "refund_request")
        assert _text(offered) == "I can make a refund of 49.99. Shall I go ahead?"
        paid = await line.say("refund", "yes please", "process_refund", messageId="pay-1")
        again = await line.say("refund", "yes please", "process_refund", messageId="pay-1")
        assert _text(paid) == "Your refund of 49.99 has been paid. Reference R-000001."
        refund = {"reference": "R-000001", "amount": "49.99", "account_id": "ACC-999"}
        assert _parts(paid)[1]["data"] == {"refund": refund}
        assert _parts(again) == _parts(paid)
        other = await line.say("refund", "another 200", "process_refund", messageId="pay-2")
        assert _text(other) == "Your refund of 200.00 has been paid. Reference R-000002."
        ledger = (await line.http.get(f"{line.urls['refund']}/ledger")).json()
        assert ledger == [
            {**refund, "message_id": "pay-1"},
            {**refund, "reference": "R-000002", "amount": "200.00", "message_id": "pay-2"},
        ]

    _call(story, "refund")


def test_without_an_amount_the_last_order_is_refunded() -> None:
    async def story(line: Line) -> None:
        offered = await line.say("refund", "I want my money back", "refund_request")
        assert _text(offered) == "I can make a refund of 11.46, your last order. Shall I go ahead?"
        paid = await line.say("refund", "yes", "process_refund")
        assert _text(paid) == "Your refund of 11.46 has been paid. Reference R-000001."

    _call(story, "refund")


def test_two_servings_do_not_share_a_ledger() -> None:
    async def story(line: Line) -> str:
        return _text(await line.say("refund", "$1", "process_refund"))

    assert _call(story, "refund") == _call(story, "refund")


def test_a_complaint_gets_a_receipt_as_a_file() -> None:
    async def story(line: Line) -> None:
        taken = await line.say("complaint", "It is broken", "complaint")
        file = _parts(taken)[1]["file"]
        assert (file["name"], file["mimeType"]) == ("complaint-C-000001.txt", "text/plain")
        assert base64.b64decode(file["bytes"]) == b"Complaint C-000001\nAccount ACC-999\n\nIt is broken\n"
        resolved = await line.say("complaint", "fine now", "resolve_complaint")
        assert _text(resolved) == "Your complaint C-000001 is resolved. Thank you for your patience."

    _call(story, "complaint")


def test_a_balance_is_data_and_depends_on_the_account_alone() -> None:
    async def story(line: Line) -> None:
        told = await line.say("balance", "how much?", "check_balance")
        balance = {"account_id": "ACC-999", "currency": "USD", "available": "5593.35"}
        assert _parts(told)[1]["data"] == {"balance": balance}
        other = await line.say("balance", "how much?", metadata={"account_id": "ACC-1"})
        assert _parts(other)[1]["data"]["balance"]["available"] != "5593.35"

    _call(story, "balance")


def test_a_confirmed_booking_is_the_one_that_was_pending() -> None:
    async def story(line: Line) -> list[str]:
        await line.say("booking", "a table for two", "booking_request")
        again = {"intent": "confirm_booking", "messageId": "confirm-1"}
        confirmed = [await line.say("booking", "yes", **again) for _ in range(2)]
        confirmed.append(await line.say("booking", "and one more", "confirm_booking"))
        return [_parts(reply)[1]["data"]["booking"]["reference"] for reply in confirmed]

    assert _call(story, "booking") == ["B-000001", "B-000001", "B-000002"]


@pytest.mark.parametrize(
    ("words", "welcomed"),
    [
        ("Hi, my name is maría", "Welcome to customer service, maría. How can I help you today?"),
        ("I am Bob", "Welcome to customer service, Bob. How can I help you today?"),
        ("I am angry, I'm Zoë", "Welcome to customer service, Zoë. How can I help you today?"),
        ("I am angry", "Welcome to customer service. How can I help you today?"),
    ],
)
def test_a_caller_who_gives_a_name_is_greeted_by_it(words: str, welcomed: str) -> None:
    async def story(line: Line) -> str:
        return _text(await line.say("greeting", words, "greeting"))

    assert _call(story, "greeting") == welcomed


def test_a_rating_is_acknowledged() -> None:
    async def story(line: Line) -> list[str]:
        return [_text(await line.say("closing", words, "feedback")) for words in ("4 of 5", "it was 10!")]

    assert _call(story, "closing") == [
        "Thank you for your rating of 4 out of 5. Goodbye.",
        "Thank you for calling. How would you rate this call, from 1 to 5?",
    ]


def test_the_other_dialect_is_refused() -> None:
    async def story(line: Line) -> None:
        for name, row in AGENTS.items():
            method = "message/send" if row.dialect == "1.0" else "SendMessage"
            reply = await line.rpc(name, method, {"message": _message(name, "hello", "", {})})
            assert reply["error"]["code"] == METHOD_NOT_FOUND, name

    _call(story)


def test_a_1_0_method_needs_the_version_header() -> None:
    async def story(line: Line) -> int:
        params = {"message": _message("greeting", "hello", "greeting", {})}
        request = {"jsonrpc": "2.0", "id": 1, "method": "SendMessage", "params": params}
        reply = await line.http.post(line.urls["greeting"], json=request)
        return int(reply.json()["error"]["code"])

    assert _call(story, "greeting") == VERSION_NOT_SUPPORTED


def test_a_taken_port_is_reported_before_anything_starts() -> None:
    async def run(taken: int, free: int) -> None:
        async with serve(ports={"greeting": free, "auth": taken}):
            pytest.fail("served on a port that is in use")

    with socket.create_server(("127.0.0.1", 0)) as other, socket.create_server(("127.0.0.1", 0)) as spare:
        taken, free = other.getsockname()[1], spare.getsockname()[1]
        spare.close()
        with pytest.raises(PortInUse, match=f"port {taken} of agent 'auth' is in use") as caught:
            asyncio.run(run(taken, free))
        assert caught.value.port == taken
        with socket.create_server(("127.0.0.1", free)):
            pass


def test_an_unknown_agent_is_refused_by_name() -> None:
    with pytest.raises(UnknownAgent, match="there is no demo agent 'nobody'; there are: greeting, auth"):
        build_app("nobody", "http://127.0.0.1:1")


def _handlers() -> list[Any]:
    return [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]


def test_serving_leaves_signals_alone_and_frees_its_ports() -> None:
    async def run() -> str:
        before = _handlers()
        async with _line("greeting") as line:
            await line.say("greeting", "hello", "greeting")
            assert _handlers() == before
            return line.urls["greeting"]

    url = asyncio.run(run())
    with pytest.raises(httpx.ConnectError):
        httpx.get(url)


@pytest.mark.parametrize("name", ["greeting", "balance", "auth", "fallback"])
def test_the_client_of_the_sdk_is_answered(name: str) -> None:
    async def story(line: Line) -> str:
        async with await create_client(line.urls[name]) as client:
            message = new_text_message("my number is 1234", context_id="CALL-1", role=Role.ROLE_USER)
            events = [event async for event in client.send_message(SendMessageRequest(message=message))]
        assert len(events) == 1
        if events[0].HasField("message"):
            return get_message_text(events[0].message)
        assert events[0].task.status.state == TaskState.TASK_STATE_COMPLETED
        return get_artifact_text(events[0].task.artifacts[0])

    assert _call(story, name).startswith(
        {
            "greeting": "Welcome to customer service.",
            "balance": "Your available balance is",
            "auth": "Thank you, your identity is verified.",
            "fallback": "I am sorry",
        }[name]
    )
