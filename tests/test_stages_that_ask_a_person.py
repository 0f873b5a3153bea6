"""Stages that ask a person: the question goes out, the run waits, and a fitting answer lets it go on."""

from typing import Any

from langgraph.types import Command

from graph import TurnContext
from tests.crowd import Line, over

AFTER_ANOTHER = """\
stages:
  draft: {agent: worker, input: {text: "'draft'"}, output: {text: words}}
  approve:
    ask: {question: "Send {{ words }}?", schema: {type: object, required: [ok], properties: {ok: {type: boolean}}}}
    output: {ok: ok}
    next: [{when: ok == true, goto: send}, {goto: end}]
  send: {agent: worker, input: {text: "'send ' + words"}}
"""
BESIDE_OTHERS = """\
stages:
  draft: {agent: worker, input: {text: "'draft'"}, needs: []}
  approve: {ask: {question: "Send it?", schema: {type: boolean}}, output: {data: ok}, needs: []}
  check: {agent: worker, input: {text: "'check'"}, needs: [draft]}
  file: {agent: worker, input: {text: "'file'"}, needs: [check]}
  send: {agent: worker, when: ok == true, input: {text: "'send'"}, needs: [approve, file]}
"""
SERVED = TurnContext(interrupts=False)


def question_of(state: dict[str, Any]) -> Any:
    (interrupt,) = state["__interrupt__"]
    return interrupt.value


def test_a_notebook_is_interrupted_with_the_question_and_resumes_with_the_answer() -> None:
    async def story(line: Line) -> None:
        state = await line.say("go")

        assert question_of(state)["stage"] == "approve"
        assert question_of(state)["question"] == "Send DRAFT?"
        assert question_of(state)["schema"]["required"] == ["ok"]
        assert await line.told() == ["draft", "approve"]
        state = await line.go(Command(resume={"ok": True}))

        assert await line.told() == ["draft", "approve", "approve", "send"]
        assert (line.crowd.heard, state["ended"]) == (["draft", "send DRAFT"], "completed")
        assert (state["context"]["ok"], state.get("asked", {})) == (True, {})

    over(AFTER_ANOTHER, story)


def test_an_answer_that_does_not_fit_is_asked_for_again() -> None:
    async def story(line: Line) -> None:
        await line.say("go")
        state = await line.go(Command(resume={"ok": "perhaps"}))

        assert question_of(state)["question"] == "Send DRAFT?"
        wrong = (await line.trail())[-1]["response_data"]["error"]
        assert wrong["type"] == "answer_misfit"
        assert "'perhaps' is not of type 'boolean'" in wrong["message"]
        state = await line.go(Command(resume={"ok": False}))

        assert await line.told() == ["draft", "approve", "approve!", "approve"]
        assert (state["ended"], line.crowd.heard) == ("completed", ["draft"])

    over(AFTER_ANOTHER, story)


def test_where_nothing_can_be_resumed_the_next_turn_brings_the_answer() -> None:
    async def story(line: Line) -> None:
        state = await line.say("go", SERVED)
        step = state["steps"][-1]

        assert (step["agent"], step["response_data"]["text"]) == ("person", "Send DRAFT?")
        assert (step["response_data"]["task_state"], state["stage"]) == ("input-required", "approve")
        state = await line.say("well", SERVED)
        assert state["steps"][-1]["response_data"]["error"]["type"] == "answer_misfit"
        assert (state["stage"], "approve" in state["asked"]) == ("approve", True)
        state = await line.go({"answer": {"ok": True}}, SERVED)

        assert await line.told() == ["draft", "approve", "approve!", "approve", "send"]
        assert (line.crowd.heard[-1], state["ended"]) == ("send DRAFT", "completed")

    over(AFTER_ANOTHER, story)


def test_a_data_part_and_plain_words_are_answers_too() -> None:
    async def story(line: Line) -> None:
        await line.say("go", SERVED)
        state = await line.go({"input_message": "", "parts": [{"data": {"ok": False}}]}, SERVED)

        assert (state["ended"], state["context"]["ok"]) == ("completed", False)

    async def in_words(line: Line) -> None:
        await line.say("go", SERVED)
        state = await line.say(" Yes ", SERVED)

        assert (state["ended"], state["context"]["ok"]) == ("completed", True)

    over(AFTER_ANOTHER, story)
    over(BESIDE_OTHERS, in_words)


def test_a_question_does_not_hold_up_stages_that_do_not_need_it() -> None:
    async def story(line: Line) -> None:
        state = await line.say("go", SERVED)

        assert line.crowd.heard == ["draft", "check", "file"]
        assert state["steps"][-1]["response_data"]["task_state"] == "input-required"
        assert (state["ended"], state["stage"]) == (None, "approve")
        state = await line.say("yes", SERVED)

        assert line.crowd.heard == ["draft", "check", "file", "send"]
        assert (state["ended"], state["done"]["send"]) == ("completed", "answered")

    over(BESIDE_OTHERS, story)


def test_a_notebook_resumes_beside_other_stages_and_asks_nobody_twice() -> None:
    async def story(line: Line) -> None:
        state = await line.say("go")
        assert question_of(state)["question"] == "Send it?"
        state = await line.go(Command(resume=False))

        assert sorted(line.crowd.heard) == ["check", "draft", "file"]
        assert (state["ended"], state["done"]["send"]) == ("completed", "skipped")
        assert [step["number"] for step in await line.trail()] == list(range(1, state["step_count"] + 1))

    over(BESIDE_OTHERS, story)


def test_no_is_an_answer_that_skips_what_depends_on_it() -> None:
    async def story(line: Line) -> None:
        await line.say("go", SERVED)
        state = await line.say("no", SERVED)

        assert (state["ended"], state["done"]["send"], line.crowd.heard) == (
            "completed",
            "skipped",
            ["draft", "check", "file"],
        )

    over(BESIDE_OTHERS, story)
