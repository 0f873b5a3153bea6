"""Every flow in docs/flows.md runs as it stands, and every change to the shipped call that is shown there is one."""

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest
from langchain_core.runnables import RunnableConfig
from langgraph.types import Command

from graph import CallGraph, build_graph, load_flow
from graph.draw import mermaid, png
from graph.flow import Flow, Gate
from graph.loader import FlowError, parse_flow
from nodes.models import OpenAIModel
from nodes.spec import Agent, AgentVersion, Ask, Branch, Llm, Map, Repeat, Stage, Way
from tests.openai_server import model_server, says

ROOT = Path(__file__).parent.parent
DOCS = (ROOT / "docs" / "flows.md").read_text(encoding="utf-8")
CALL = (ROOT / "graph" / "flows" / "call.yaml").read_text(encoding="utf-8")
THREAD: RunnableConfig = {"configurable": {"thread_id": "documented"}}

SHOWN = [
    (re.findall(r"^flow: (\w+)$", block, re.MULTILINE)[0], how, block)
    for how, block in re.findall(r"<!-- (.*?) -->\n```yaml\n(.*?)```", DOCS, re.DOTALL)
]
RUNS = [pytest.param(how, block, id=name) for name, how, block in SHOWN if how.startswith("runs")]
CHANGES = re.findall(r"<!-- change: call -->\n((?:```diff\n.*?```\n)+)", DOCS, re.DOTALL)

KEPT: dict[str, set[str]] = {
    "digest": {"keywords", "summary"},
    "review": {"mood", "topics"},
    "reviews": {"moods", "unread"},
    "figures": {"facts", "comment"},
    "refund_approval": {"approved", "letter"},
    "triage": {"urgency", "text"},
    "quarter": {"series", "stats", "direction", "summary", "report"},
    "sturdy": {"mood"},
}
"""What each flow knows at its end that it did not at its beginning."""


def test_every_flow_that_is_shown_says_how_it_is_tested() -> None:
    assert len(SHOWN) == len(re.findall(r"```yaml\n", DOCS))
    assert {name for name, how, _ in SHOWN if how.startswith("runs")} == set(KEPT)


def test_every_key_of_the_language_is_shown() -> None:
    shown = "\n".join(block for _, _, block in SHOWN)
    models = (Flow, Gate, Agent, AgentVersion, Stage, Way, Repeat, Branch, Map, Llm, Ask)
    keys = {field.alias or name for model in models for name, field in model.model_fields.items()}

    assert {key for key in keys if not re.search(rf"\b{key}:", shown)} == set()


def test_a_flow_that_is_shown_as_refused_is() -> None:
    ((block, told),) = re.findall(r"<!-- refused -->\n```yaml\n(.*?)```\n\n```text\n(.*?)```", DOCS, re.DOTALL)

    with pytest.raises(FlowError) as refused:
        parse_flow(block, "orders.yaml", {})

    assert f"{refused.value}\n" == told


@pytest.mark.parametrize("block", [pytest.param(block, id=name) for name, how, block in SHOWN if how != "refused"])
def test_a_flow_that_is_shown_checks(block: str) -> None:
    flow = parse_flow(block, "docs/flows.md", {})

    assert mermaid(flow).count("stage1") > 0
    assert png(flow).startswith(b"\x89PNG")


@pytest.mark.parametrize(("how", "block"), RUNS)
def test_a_flow_that_is_shown_runs(how: str, block: str, agents: dict[str, str]) -> None:
    env = {f"{name.upper()}_AGENT_URL": url for name, url in agents.items()}
    flow = parse_flow(block, "docs/flows.md", env)
    inputs = json.loads(how[how.index("{") :])

    state = asyncio.run(_played(flow, inputs))

    assert (state["is_complete"], state["ended"]) == (True, "completed")
    kept = {name: state["context"].get(name) for name in KEPT[flow.flow]}
    assert None not in kept.values(), kept


async def _played(flow: Flow, inputs: dict[str, Any]) -> dict[str, Any]:
    async with model_server() as server:
        server.thought = says('{"topic": "costs", "numbers": [22, 18]}')
        model = OpenAIModel(api_key="key", model="small", base_url=server.url)
        graph = build_graph(flow, model=model)
        state = await graph.ainvoke({"context": inputs}, THREAD)
        if state.get("__interrupt__"):
            state = await _answered(graph)
        await model.aclose()
    return dict(state)


async def _answered(graph: CallGraph) -> dict[str, Any]:
    return dict(await graph.ainvoke(Command(resume={"approved": True}), THREAD))


@pytest.mark.parametrize("number", range(4), ids=["an agent", "a stage", "a branch", "a gate"])
def test_a_change_of_the_call_that_is_shown_is_all_it_takes(number: int, tmp_path: Path) -> None:
    changed = CALL
    for diff in re.findall(r"```diff\n(.*?)```", CHANGES[number], re.DOTALL):
        changed = _patched(changed, diff)
    file = tmp_path / "my-call.yaml"
    file.write_text(changed, encoding="utf-8")

    flow = load_flow(file, {})

    was = load_flow("call", {})
    news = {
        "agents": flow.agents.keys() - was.agents.keys(),
        "stages": flow.stages.keys() - was.stages.keys(),
        "ways": {name for name in was.stages if flow.stages[name].next != was.stages[name].next},
        "gates": {gate.stage for gate in flow.gates} - {gate.stage for gate in was.gates},
    }
    only: list[dict[str, set[str]]] = [
        {"agents": {"card"}},
        {"stages": {"survey"}},
        {"ways": {"intent_capture"}},
        {"gates": {"closing"}},
    ]
    assert {kind: names for kind, names in news.items() if names} == only[number]


def _patched(text: str, diff: str) -> str:
    lines = diff.splitlines(keepends=True)
    old = "".join(line[1:] for line in lines if line[0] in " -")
    new = "".join(line[1:] for line in lines if line[0] in " +")
    assert text.count(old) == 1, f"{old!r} is not one place of call.yaml"
    return text.replace(old, new)
