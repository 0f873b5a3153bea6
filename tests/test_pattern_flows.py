"""The flows that we ship as examples, one for each pattern: every one checks, and comes to what it promises."""

import asyncio
import json
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import pytest
from langgraph.types import Command

from graph import build_graph, load_flow, shipped_flows, steps_of
from graph.models import choose_model
from tests.background import Background
from tests.conftest import StartService
from tests.openai_server import ModelServer, Thought, answers, model_server, says, thinks

REPORT = """\
Q3 2024 Financial Report. TechCorp India did well.
Revenue grew by 22% to 5,200 crore.
Net profit improved by 15% to 820 crore.
Operating expenses rose by 18% for hiring.
The company won 45 new clients."""
SUMMARY = "Revenue grew by 22% to 5,200 crore. Net profit improved by 15% to 820 crore."

Where = tuple[Any, ...]


@dataclass(frozen=True)
class Came:
    """What a run came to."""

    state: Mapping[str, Any]
    steps: list[Any]

    @property
    def way(self) -> list[Where]:
        """The stages that were passed, with the branches, and how each went where it did not go well."""
        return [
            (step["stage"], *([step["branch"]] if "branch" in step else []))
            + (("error",) if step["response_status"] == "error" else ())
            for step in self.steps
        ]

    def __getitem__(self, name: str) -> Any:
        """What the run knows by a name."""
        return self.state["context"][name]


def run(flow: str, agents: Mapping[str, str], *said: Any, model: ModelServer | None = None, **inputs: Any) -> Came:
    """Run a shipped flow over the demo agents; what is said after the first message answers what the run asks."""

    async def story() -> Came:
        env = {f"{name.upper()}_AGENT_URL": url for name, url in agents.items()}
        config: Any = {"configurable": {"thread_id": "RUN-1"}}
        async with AsyncExitStack() as stack:
            chosen = choose_model("sk-secret", base_url=model.url) if model else None
            if chosen:
                stack.push_async_callback(chosen.aclose)
            graph = build_graph(flow, env=env, model=chosen)
            state = await graph.ainvoke({"input_message": said[0], "context": inputs}, config)
            for answer in said[1:]:
                state = await graph.ainvoke(Command(resume=answer), config)
            return Came(state, await steps_of(graph, config))

    return asyncio.run(story())


@pytest.mark.parametrize("flow", shipped_flows())
def test_every_flow_that_we_ship_checks_and_says_what_it_is_for(flow: str) -> None:
    loaded = load_flow(flow, {})

    assert loaded.flow == flow
    assert loaded.about


# Sequential.


def test_steps_one_after_another(agents: dict[str, str]) -> None:
    came = run("sequential", agents, REPORT)

    assert came.way == [("extract",), ("summarise",), ("format",)]
    assert came["numbers"] == [2024, 22, 5200, 15, 820, 18, 45]
    assert came["briefing"] == f"About report. {SUMMARY}"
    assert came.state["ended"] == "completed"


def test_a_step_that_cannot_work_ends_the_way_there(agents: dict[str, str]) -> None:
    came = run("sequential", agents, " ")

    assert came.way == [("extract", "error")]
    assert came.steps[0]["response_data"]["error"]["message"].startswith("There is no text")
    assert not came.state["is_complete"]


# Parallel.


def test_steps_at_the_same_time_are_joined(agents: dict[str, str]) -> None:
    came = run("parallel", agents, REPORT)

    assert came.way == [("read", "sentiment"), ("read", "keywords"), ("read", "summary"), ("read",), ("report",)]
    assert (came["sentiment"], came["summary"]) == ("positive", SUMMARY)
    words = ", ".join(came["keywords"])
    assert came["report"] == f"{SUMMARY}\n\nTone: positive.\nKeywords: {words}."


# Conditional.


@pytest.mark.parametrize(
    ("text", "stage", "found"),
    [
        ("It is an emergency. The mill burns.", "alert", {"alarm": "IT IS AN EMERGENCY. THE MILL BURNS."}),
        ("An analysis of this year. Profit is strong.", "sentiment", {"sentiment": "positive"}),
        ("Roses love water. Water is life.", "keywords", {"keywords": ["water", "roses", "love", "life"]}),
    ],
)
def test_the_path_is_chosen_by_what_was_found_and_a_summary_always_follows(
    agents: dict[str, str], text: str, stage: str, found: dict[str, Any]
) -> None:
    came = run("conditional", agents, text)

    assert came.way == [("classify",), (stage,), ("summary",)]
    paths = ("alarm", "sentiment", "keywords")
    assert {name: value for name, value in came.state["context"].items() if name in paths} == found
    assert came["summary"] in text


# Loop.


def test_a_step_is_repeated_until_the_text_is_short_enough(agents: dict[str, str]) -> None:
    sentences = [f"This is sentence number {number} of a text." for number in range(8)]

    came = run("loop", agents, " ".join(sentences))

    assert came.way == [("load",), *[("refine",)] * 3, ("format",)]
    assert (came["words"], came["text"]) == (40, " ".join(sentences[:5]))


def test_a_text_that_is_short_already_is_refined_once(agents: dict[str, str]) -> None:
    assert run("loop", agents, "Short.").way == [("load",), ("refine",), ("format",)]


def test_the_loop_ends_though_the_text_stays_too_long(agents: dict[str, str]) -> None:
    text = f"{'very ' * 60}long."

    came = run("loop", agents, text)

    assert came.way == [("load",), *[("refine",)] * 10, ("format",)]
    assert (came["words"], came["text"]) == (61, text.capitalize())


# Map-reduce.


def test_every_document_is_read_and_then_one_result_is_made(agents: dict[str, str]) -> None:
    documents = ["It is great, I love it.", "It is broken.", "It is a table."]

    came = run("map_reduce", agents, "", documents=documents)

    assert came.way == [("read_each", "0"), ("read_each", "1"), ("read_each", "2"), ("read_each",), ("reduce",)]
    assert [reading["sentiment"] for reading in came["readings"]] == ["positive", "negative", "neutral"]
    assert came["failed"] == []
    numbers = {"count": 3, "mean": 0.057, "median": 0, "min": -0.5, "max": 0.67, "stdev": 0.587}
    assert came["scores"] == pytest.approx(numbers, abs=0.001)


def test_a_document_that_cannot_be_read_is_named_and_spoils_nothing(agents: dict[str, str]) -> None:
    came = run("map_reduce", agents, "", documents=["It is great.", "", "It is a table."])

    assert (came["failed"], came["readings"][1]) == ([1], None)
    assert came.way[1:] == [("read_each", "1", "error"), ("read_each", "2"), ("read_each", "error"), ("reduce",)]
    assert came["scores"]["count"] == 2


@pytest.mark.parametrize("documents", [[], [""]])
def test_where_nothing_was_read_there_is_nothing_to_reduce(agents: dict[str, str], documents: list[str]) -> None:
    came = run("map_reduce", agents, "", documents=documents)

    assert came.steps[-1]["skipped"] == ["reduce"]
    assert (came.state["ended"], len(came["failed"])) == ("completed", len(documents))


# Approval.


def test_a_person_says_yes(agents: dict[str, str]) -> None:
    waiting = run("approval", agents, REPORT)
    came = run("approval", agents, REPORT, True)

    (asked,) = waiting.state["__interrupt__"]
    assert asked.value == {
        "stage": "approve",
        "question": f"May this go out? {SUMMARY}",
        "schema": {"type": "boolean"},
    }
    assert waiting.way == [("draft",), ("approve",)]
    assert came.way == [("draft",), ("approve",), ("approve",), ("publish",)]
    assert (came["approved"], came["published"]) == (True, SUMMARY)


def test_a_person_says_no(agents: dict[str, str]) -> None:
    came = run("approval", agents, REPORT, False)

    assert came.way == [("draft",), ("approve",), ("approve",)]
    assert (came["approved"], came.state["ended"]) == (False, "completed")
    assert "published" not in came.state["context"]


def test_an_answer_that_is_neither_is_asked_for_again(agents: dict[str, str]) -> None:
    came = run("approval", agents, REPORT, "perhaps", True)

    assert came.way == [("draft",), ("approve",), ("approve", "error"), ("approve",), ("publish",)]
    assert came["published"] == SUMMARY


# The financial report.


@pytest.fixture(scope="module")
def shared_model(background: Background) -> ModelServer:
    return background.open(model_server())


@pytest.fixture
def model(shared_model: ModelServer) -> ModelServer:
    """A model server that was not asked anything yet."""
    shared_model.bodies.clear()
    shared_model.headers.clear()
    return shared_model


def financial(facts: Any, **others: Thought) -> Thought:
    """A model that does the four jobs of the financial report."""
    said = facts if isinstance(facts, str) else json.dumps(facts)
    jobs = {
        "Extract the following": says(said),
        "growth trends": says("Revenue grows. The tone is positive."),
        "potential risks": says('```json\n["Risk 1: Currency.", "Risk 2: Supply."]\n```'),
        "investor summary": says("investors may be glad.  revenue grew"),
    }
    return thinks(jobs | {job: others[name] for name, job in _JOBS.items() if name in others})


_JOBS = {"trend": "growth trends", "risk": "potential risks", "writer": "investor summary"}
FACTS = {"topic": "Quarterly Report", "statistics": ["revenue +22%"], "conclusions": ["It did well."]}


def asked(model: ModelServer, job: str) -> str:
    """What the model was asked for one of its jobs."""
    return next(prompt for prompt in model.prompts() if _JOBS.get(job, job) in prompt)


def test_a_financial_report_becomes_a_summary_for_investors(agents: dict[str, str], model: ModelServer) -> None:
    model.thought = financial(FACTS)

    came = run("financial_report", agents, REPORT, model=model)

    assert came.way == [
        ("loader",),
        ("extraction",),
        ("analysis", "trend"),
        ("analysis", "risk"),
        ("analysis",),
        ("writer",),
        ("formatter",),
    ]
    assert REPORT in asked(model, "Extract the following")
    assert (came["facts"], came["risks"]) == (FACTS, ["Risk 1: Currency.", "Risk 2: Supply."])
    assert list(came.steps[4]["response_data"]["data"][0]) == ["trend", "risk"]
    assert 'Trends: Revenue grows. The tone is positive.\nRisks: ["Risk 1: Currency.' in asked(model, "writer")
    assert came["report"] == "Investors may be glad. Revenue grew."
    assert {step["a2a_agent_url"] for step in came.steps[1:4]} == {model.url}


@pytest.mark.parametrize("topic", ["Liquidity CRISIS", "an emergency report"])
def test_what_is_urgent_gets_a_headline_and_no_analysis(
    agents: dict[str, str], model: ModelServer, topic: str
) -> None:
    model.thought = financial(FACTS | {"topic": topic})

    came = run("financial_report", agents, REPORT, model=model)

    assert came.way == [("loader",), ("extraction",), ("urgent",), ("writer",), ("formatter",)]
    assert came["report"] == f"URGENT: {topic.upper()}\n\nInvestors may be glad. Revenue grew."


@pytest.mark.parametrize("said", [json.dumps(FACTS | {"topic": "Gardens"}), "I see no numbers at all."])
def test_whatever_else_it_is_about_is_summarised(agents: dict[str, str], model: ModelServer, said: str) -> None:
    model.thought = financial(said)

    came = run("financial_report", agents, REPORT, model=model)

    assert came.way == [("loader",), ("extraction",), ("writer",), ("formatter",)]
    assert came["facts"] == (json.loads(said) if said.startswith("{") else {"raw": said})
    assert "Trends: \nRisks: \n" in asked(model, "writer")


def test_risks_that_are_no_json_are_kept_as_they_were_said(agents: dict[str, str], model: ModelServer) -> None:
    model.thought = financial(FACTS, risk=says("Only one: the weather."))

    came = run("financial_report", agents, REPORT, model=model)

    assert came["risks"] == {"raw": "Only one: the weather."}
    assert 'Risks: {"raw": "Only one: the weather."}' in asked(model, "writer")


def test_a_model_that_fails_leaves_the_run_where_it_can_go_on(agents: dict[str, str], model: ModelServer) -> None:
    model.thought = financial(FACTS, trend=answers("", 503))

    came = run("financial_report", agents, REPORT, model=model)

    assert came.way[2:] == [("analysis", "trend", "error"), ("analysis", "risk"), ("analysis", "error")]
    assert (came.state["stage"], came.state["is_complete"]) == ("analysis", False)


def test_without_a_model_the_run_says_how_to_configure_one(agents: dict[str, str]) -> None:
    came = run("financial_report", agents, REPORT)

    assert came.way == [("loader",), ("extraction", "error")]
    assert "set OPENAI_API_KEY" in came.steps[-1]["response_data"]["error"]["message"]


def test_the_service_runs_it_too(start: StartService, model: ModelServer) -> None:
    model.thought = financial(FACTS)
    key = {"openai_api_key": "sk-secret", "openai_base_url": model.url}
    service = start(checkpointer="memory", flows=("financial_report",), **key)

    done = service.http.post("/flows/financial_report/runs", json={"message": REPORT}).json()

    assert (done["status"], done["output_data"]["report"]) == ("completed", "Investors may be glad. Revenue grew.")
    assert {body["model"] for body in model.bodies} == {"gpt-4o-mini"}
