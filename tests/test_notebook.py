"""The notebook in examples/, executed in a kernel of its own, away from the repository."""

import os
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parent.parent
NOTEBOOK = ROOT / "examples" / "call.ipynb"


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """The outputs of each cell, by the cell's id."""
    folder = tmp_path_factory.mktemp("notebook")
    notebook = _notebook()
    client = NotebookClient(notebook, timeout=60, kernel_name="python3", resources={"metadata": {"path": folder}})
    client.execute(env=os.environ | {"PYTHONPATH": str(ROOT), "IPYTHONDIR": str(folder)})
    return {cell.id: cell.outputs for cell in notebook.cells if cell.cell_type == "code"}


def test_the_call_is_complete_after_its_turns(executed: dict[str, list[Any]]) -> None:
    assert "Welcome to customer service, Maria." in _shown(executed["graph"])
    assert "('input-required', 2)" in _shown(executed["otp"])
    assert "authentication · authenticate (open_task) · next is stage 3" in _shown(executed["code"])
    assert "closing · closing (triggers) · complete" in _shown(executed["closing"])
    assert "'completed_flows': [1, 2, 3, 4, 5]" in _shown(executed["closing"])


def test_an_illegal_intent_is_refused_with_the_legal_ones(executed: dict[str, list[Any]]) -> None:
    assert "send one of process_refund, " in _shown(executed["refused"])


def test_history_and_audit_trail_have_one_line_a_turn(executed: dict[str, list[Any]]) -> None:
    history, trail = _shown(executed["history"]).splitlines(), _shown(executed["trail"]).splitlines()
    assert (len(history), len(trail)) == (7, 7)
    assert history[-1] == "turn 7: at stage 5, completed [1, 2, 3, 4, 5]"
    assert trail[3].split()[:4] == ["4", "intent_capture", "unknown", "success"]


def test_the_flow_is_drawn_as_picture_and_as_text(executed: dict[str, list[Any]]) -> None:
    assert "image/png" in executed["flow"][0]["data"]
    assert "flowchart" in _shown(executed["mermaid"])


def test_agents_and_flows_can_be_swapped(executed: dict[str, list[Any]]) -> None:
    assert _shown(executed["fork"]).startswith("'Your available balance is ")
    assert _shown(executed["swap"]) == "'greeting was told: Good morning'"
    assert "'account_id': 'ACC-999'" in _shown(executed["flow3"])
    assert "did you mean 'balance'?" in _shown(executed["mistake"])


def test_the_committed_notebook_carries_no_outputs() -> None:
    code = [cell for cell in _notebook().cells if cell.cell_type == "code"]
    assert [cell.id for cell in code if cell.outputs or cell.execution_count] == []


def _notebook() -> Any:
    return nbformat.read(NOTEBOOK, as_version=4)  # type: ignore[no-untyped-call]


def _shown(outputs: list[Any]) -> str:
    """What a cell prints and displays, as text."""
    return "".join(str(output.get("text") or output["data"].get("text/plain")) for output in outputs)
