"""How a turn looks on a terminal: what was sent, who answered, and where the call stands."""

import io
import sys
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table

_INTENT_SOURCES = {
    "declared": "",
    "llm": " (understood by the model)",
    "triggers": " (understood by its words)",
    "open_task": " (the agent had asked)",
    "none": " (not understood)",
}


def open_console() -> Console:
    """Return the terminal; what its encoding cannot say is shown as `?`."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    return Console()


def show_request(console: Console, sent: Mapping[str, Any]) -> None:
    """Print what the caller says."""
    intent = sent.get("intent")
    how = f"intent [cyan]{escape(intent)}[/cyan]" if intent else "no intent, the classifier decides"
    console.print(f"[bold]caller[/bold]  {escape(sent['input_message'])}  [dim]({how})[/dim]")


def show_answer(console: Console, told: Mapping[str, Any]) -> None:
    """Print the answer to a turn, with stage, agent and time."""
    ok = told["status"] == "success"
    response = told["response"]
    lines = [f"[bold]{escape(_spoken(response))}[/bold]" if ok else f"[red]{escape(_spoken(response))}[/red]"]
    lines += [f"[dim]data[/dim]  {escape(str(data))}" for data in response.get("data", [])]
    lines += [f"[dim]file[/dim]  {escape(_file(file))}" for file in response.get("files", [])]
    source = _INTENT_SOURCES.get(told["intent_source"], f" (by {told['intent_source']})")
    after = "complete" if told["is_complete"] else f"next stage {told['next_flow_id']}"
    title = f"stage {told['intent_flow_id']} {told['stage']} · agent {told['agent']} · {told['duration_ms']:.0f} ms"
    subtitle = f"{told['intent']}{source} → {after}"
    console.print(
        Panel(
            "\n".join(lines),
            title=escape(title),
            subtitle=escape(subtitle),
            title_align="left",
            subtitle_align="right",
            border_style="green" if ok else "red",
        )
    )


def show_problem(console: Console, problem: Mapping[str, Any]) -> None:
    """Print a turn that was refused or failed."""
    title = f"{problem.get('status', '')} {problem.get('type', 'error')}"
    body = escape(str(problem.get("detail") or problem.get("title")))
    console.print(Panel(body, title=escape(title), title_align="left", border_style="yellow"))


def show_summary(console: Console, summary: Mapping[str, Any]) -> None:
    """Print a finished call's summary with its audit trail."""
    title = f"call {summary['call_identify_id']} · account {summary['account_id']} · {summary['step_count']} steps"
    table = Table(title=escape(title), title_justify="left", header_style="bold")
    for column in ("#", "stage", "intent", "agent", "status", "ms"):
        table.add_column(column, justify="right" if column in ("#", "ms") else "left")
    for step in summary["steps"]:
        cells = (
            step["number"],
            step["stage"],
            step["intent"],
            step["agent"],
            step["response_status"],
            f"{step['duration_ms']:.0f}",
        )
        table.add_row(*[escape(str(cell)) for cell in cells])
    console.print(table)


def _spoken(response: Mapping[str, Any]) -> str:
    return str(response.get("text") or response.get("error", {}).get("message") or "(no words)")


def _file(file: Mapping[str, Any]) -> str:
    where = file.get("url") or f"{len(file.get('bytes', '')) * 3 // 4} bytes"
    return f"{file.get('name', 'unnamed')} ({file.get('media_type', 'unknown type')}, {where})"
