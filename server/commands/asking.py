"""Asking whoever sits at the terminal: for the caller's next message, or for a person's answer."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from langgraph.types import Command, Interrupt
from rich.console import Console
from rich.markup import escape

from nodes.person import answer_in
from nodes.schemas import misfit


class Terminal:
    """Somebody to ask.

    Args:
        console: where the questions are put; answers come from standard input.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self.is_manned = sys.stdin.isatty()
        """Whether there is a person, and not a file or a pipe."""

    def show(self, text: str) -> None:
        """Print text as it is."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def message(self) -> dict[str, Any] | None:
        """Return what the caller says next, as a turn brings it; None at the end of what there is to say."""
        line = self._line("you> ")
        if line is None or line == "/quit":
            return None
        if line.startswith("/as "):
            _, intent, *words = line.split(maxsplit=2)
            return {"input_message": words[0] if words else intent, "intent": intent}
        return {"input_message": line, "intent": None}

    def answers(self, questions: Sequence[Interrupt]) -> Command[Any] | None:
        """Return a person's answers to all the questions; None where there is no person, or no answer."""
        answers = {}
        for question in questions if self.is_manned else ():
            answer = self._answer(question.value)
            if answer is None:
                return None
            answers[question.id] = answer
        return Command(resume=answers) if answers else None

    def _answer(self, asked: Mapping[str, Any]) -> Any:
        """Ask until the answer fits; None if there is none."""
        schema = asked["schema"]
        self._console.print(f"[bold yellow]{escape(asked['question'])}[/] [dim]({escape(wanted(schema))})[/]")
        while (line := self._line("answer> ")) is not None:
            answer = answer_in({"input_message": line}, schema)
            wrong = misfit(answer, schema)
            if answer is not None and not wrong:
                return answer
            self.show(f"it does not fit: {wrong or 'null is no answer'}")
        return None

    def _line(self, prompt: str) -> str | None:
        """Return a line that is not empty; None at the end of the input."""
        while True:
            try:
                line = self._console.input(prompt, markup=False).strip()
            except EOFError:
                self.show("")
                return None
            if not self.is_manned:
                self.show(line)
            if line:
                return line


def wanted(schema: Mapping[str, Any]) -> str:
    """Return in a few words what an answer looks like."""
    if schema.get("enum"):
        return "one of " + ", ".join(map(str, schema["enum"]))
    kind = str(schema.get("type", "JSON"))
    told = {"boolean": "yes or no", "string": "text", "object": "JSON: {…}", "array": "JSON: […]"}.get(kind, kind)
    names = ", ".join(schema.get("properties", {}))
    return f"{told} with {names}" if names else told
