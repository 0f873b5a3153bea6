"""`flows parked` and `flows resolve`, run as a person would run them who has to say what came of a write."""

from pathlib import Path

import pytest

from tests.conftest import Service, StartService
from tests.puppet import Puppet
from tests.test_command_line import flows
from tests.test_parked_writes import FLOW

TOKEN = "a-token-that-is-long"


@pytest.fixture
def till(start: StartService, puppet: tuple[Puppet, str], tmp_path: Path) -> Service:
    """A service that wants a token, with an agent that does not always answer in time."""
    file = tmp_path / "till.yaml"
    file.write_text(FLOW.format(url=puppet[1]))
    return start(checkpointer="memory", flow=str(file), agent_timeout_seconds=0.3, admin_token=TOKEN)


def ran(service: Service, *arguments: str) -> tuple[int, str, str]:
    """The exit code of a command, and what it says."""
    done = flows(*arguments, "--url", service.url, env={"FLOWS_ADMIN_TOKEN": TOKEN, "COLUMNS": "40"})
    return done.returncode, done.stdout, done.stderr


def refused(*arguments: str, token: str = TOKEN) -> tuple[int, str]:
    """The exit code of a command that fails, and why."""
    done = flows(*arguments, env={"FLOWS_ADMIN_TOKEN": token})
    return done.returncode, done.stderr


def paying(till: Service, call: str, words: str = "slow 0.6") -> str:
    """Let a payment lose its answer, and return by which name it is parked."""
    till.turn(call, "hello", "ask")
    return str(till.turn(call, words, "pay").json()["parked"])


def test_nothing_is_parked(till: Service) -> None:
    assert ran(till, "parked") == (0, "nothing is parked\n", "")


def test_what_is_parked_is_listed_and_settled(till: Service) -> None:
    name = paying(till, "C-1")
    sent_at = till.http.get("/parked", headers={"authorization": f"Bearer {TOKEN}"}).json()["parked"][0]["sent_at"]

    head, row = ran(till, "parked")[1].splitlines()
    said = "--by", "jo", "--why", "it is in the ledger"
    done = ran(till, "resolve", name, "done", *said, "--response", "12.50 sent")
    again = ran(till, "resolve", name, "not_done", *said)

    assert head.split() == ["ID", "CALL", "STAGE", "AGENT", "SENT", "AT", "WHAT", "WAS", "SAID"]
    assert row.split() == [name, "C-1", "pay", "desk", sent_at, "slow", "0.6"]
    assert done == (0, f"{name} is settled as done: step 3 of call C-1 tells of it\n", "")
    assert again == (1, "", f"flows: the service at {till.url} did not do it: '{name}' was settled as done by jo\n")
    steps = till.http.get("/session/C-1/steps").json()
    assert steps[2]["response_data"] == {"text": "12.50 sent"}
    assert (steps[2]["resolution"]["by"], steps[2]["resolution"]["why"]) == ("jo", "it is in the ledger")


def test_an_answer_may_be_json(till: Service) -> None:
    name = paying(till, "C")

    said = "--by", "jo", "--why", "x", "--response", '{"text": "sent", "data": {"receipt": 7}}'
    assert ran(till, "resolve", name, "done", *said)[0] == 0

    step = till.http.get("/session/C/steps").json()[2]
    assert step["response_data"] == {"text": "sent", "data": [{"receipt": 7}]}


def test_words_stay_on_their_line_and_move_no_cursor(till: Service) -> None:
    name = paying(till, "a call of mine", "slow 0.6\n\x1b[2J" + "ü" * 100)
    paying(till, "other")

    _, first, second = ran(till, "parked")[1].splitlines()

    assert first.startswith(f"{name}  a call of mine  pay")
    assert first.endswith("slow 0.6  [2J" + "ü" * 67 + "…")
    assert second.startswith("other.")


def test_who_has_no_token_is_told(till: Service) -> None:
    assert refused("parked", "--url", till.url, token="") == (
        1,
        f"flows: the service at {till.url} did not do it: send the FLOWS_ADMIN_TOKEN of the service as "
        "`Authorization: Bearer`\n",
    )


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["C.0123456789abcdef", "done"], "no parked write 'C.0123456789abcdef' waits"),
        (["a/b", "done"], "leads nowhere"),
        (["C.0123456789abcdef", "done", "--by", " "], "by: it is blank"),
        (["C.0123456789abcdef", "done", "--response", '{"files": []}'], "response: write it as text"),
    ],
)
def test_what_cannot_be_settled(till: Service, arguments: list[str], told: str) -> None:
    code, why = refused("resolve", "--url", till.url, "--by", "jo", "--why", "x", *arguments)

    assert code == 1
    assert why.startswith("flows: the service at ")
    assert told in why


@pytest.mark.parametrize("arguments", [["C.0", "perhaps", "--by", "jo", "--why", "x"], ["C.0", "done"]])
def test_what_is_no_command(arguments: list[str]) -> None:
    assert refused("resolve", *arguments)[0] == 2


def test_no_service_answers() -> None:
    code, why = refused("parked", "--url", "http://127.0.0.1:9")

    assert code == 1
    assert why.startswith("flows: no service answers at http://127.0.0.1:9 (")
