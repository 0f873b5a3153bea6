"""The data analyzer: what it reckons, from which forms of data, and what it refuses."""

from typing import Any

import pytest

from tests.asking import Told, ask

QUARTERS = [
    {"quarter": "Q1", "revenue": 100, "costs": 90},
    {"quarter": "Q2", "revenue": 110, "costs": 60},
    {"quarter": "Q3", "revenue": 120, "costs": 60},
]
_TWO = {"count": 2, "mean": 2, "median": 2, "min": 1, "max": 3, "stdev": 1.41421356237}


@pytest.mark.parametrize(
    ("data", "clean", "dropped"),
    [
        ([1, "2", None, "x", True, " 3.5 ", "1,000"], [1, 2, 3.5, 1000], 3),
        ([{"a": 1}, {"a": None}, {"a": "2"}, {"a": "many"}, 7, {}], [{"a": 1}, {"a": 2}], 4),
        ([{"name": "x", "n": 1}, {"name": "y"}], [{"name": "x", "n": 1}], 1),
        ("n,m\n1,2\n3\n", [{"n": 1, "m": 2}], 1),
        ("1\n2\nfive\n", [1, 2], 1),
    ],
)
def test_what_cannot_be_reckoned_with_is_dropped(
    agents: dict[str, str], data: Any, clean: list[Any], dropped: int
) -> None:
    told = ask(agents["data_analyzer"], data={"data": data}, task="data_validation")

    assert (told.state, told.data) == ("completed", {"clean_data": clean, "dropped": dropped})


@pytest.mark.parametrize(
    ("data", "stats"),
    [
        ([1, 3], _TWO),
        ([5], {"count": 1, "mean": 5, "median": 5, "min": 5, "max": 5, "stdev": None}),
        ([{"n": 1, "who": "x"}, {"n": 3, "who": "y"}, {"n": None, "who": "z"}], {"n": _TWO}),
        ("1,3", _TWO),
        ("n;who\n", None),
        ("1,2\n3,4", {"column_1": _TWO, "column_2": {**_TWO, "mean": 3, "median": 3, "min": 2, "max": 4}}),
    ],
)
def test_statistics_are_those_of_the_numbers(agents: dict[str, str], data: Any, stats: Any) -> None:
    told = ask(agents["data_analyzer"], data={"data": data}, task="statistical_analysis")

    assert told.data == (None if stats is None else {"stats": stats})


@pytest.mark.parametrize(
    ("data", "total"), [([0.1, 0.2, 3], 3.3), (QUARTERS, {"revenue": 330, "costs": 210}), ("n\n1\n2", {"n": 3})]
)
@pytest.mark.parametrize("task", ["sum", "total", "reduce"])
def test_totals_are_added_up(agents: dict[str, str], task: str, data: Any, total: Any) -> None:
    assert ask(agents["data_analyzer"], data={"data": data}, task=task).data == {"total": total}


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({"data": [1, 2, 3]}, {"trend": "rising", "slope": 1}),
        ({"data": [9, 6, 3]}, {"trend": "falling", "slope": -3}),
        ({"data": [100, 101, 100]}, {"trend": "flat", "slope": 0}),
        ({"data": [0, 0]}, {"trend": "flat", "slope": 0}),
        ({"data": [{"n": 1}, {"n": 2}]}, {"trend": "rising", "slope": 1, "column": "n"}),
        ({"data": QUARTERS, "column": "revenue"}, {"trend": "rising", "slope": 10, "column": "revenue"}),
        ({"data": QUARTERS, "column": "costs"}, {"trend": "falling", "slope": -15, "column": "costs"}),
    ],
)
def test_a_trend_is_the_slope_of_a_line(agents: dict[str, str], given: dict[str, Any], found: dict[str, Any]) -> None:
    assert ask(agents["data_analyzer"], data=given, task="trend_analysis").data == found


@pytest.mark.parametrize(
    ("data", "risks"),
    [
        ([100, 101, 102], []),
        ([5], []),
        ([-1, 1], [("negative", "the lowest value is -1"), ("volatile", "it varies around 0")]),
        (
            [100, 10, -60],
            [
                ("negative", "the lowest value is -60"),
                ("sharp fall", "it fell by 700% from one value to the next"),
                ("volatile", "it varies by 393% of its mean"),
                ("falling", "it goes down by 80 each time"),
            ],
        ),
    ],
)
def test_risks_are_found_by_how_numbers_vary(
    agents: dict[str, str], data: list[int], risks: list[tuple[str, str]]
) -> None:
    told = ask(agents["data_analyzer"], data={"data": data}, task="identify_risks")

    assert told.data == {"risks": [{"risk": risk, "detail": detail} for risk, detail in risks]}


def test_the_risks_of_objects_name_their_column(agents: dict[str, str]) -> None:
    told = ask(agents["data_analyzer"], data={"data": QUARTERS}, label="RISK")

    assert [(risk["column"], risk["risk"]) for risk in told.data["risks"]] == [
        ("costs", "sharp fall"),
        ("costs", "falling"),
    ]


def test_the_data_pipeline_of_the_founding_document_is_answered(agents: dict[str, str]) -> None:
    """Its steps' names; the second gets what the first one cleaned."""
    url = agents["data_analyzer"]
    raw = {"data": [1, None, 3]}
    clean = ask(url, data=raw, task="data_validation", label="DATA_VALIDATION").data["clean_data"]

    assert ask(url, data={"data": clean}, task="statistical_analysis").data == {"stats": _TWO}


def test_csv_may_come_as_the_text_of_the_message(agents: dict[str, str]) -> None:
    assert ask(agents["data_analyzer"], "1\n2\n3", label="TOTAL") == Told(
        "completed", "The total is 6.", {"total": 6}
    )


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({}, "`data` must be a list of numbers, a list of objects or CSV text; it is missing."),
        ({"data": None}, "`data` must be a list of numbers, a list of objects or CSV text; it is missing."),
        (
            {"data": {"a": 1}},
            "`data` must be a list of numbers, a list of objects or CSV text; it is something else.",
        ),
        ({"data": []}, "`data` is empty; send a list of numbers, a list of objects or CSV text."),
        ({"data": "header,only"}, "`data` is empty; send a list of numbers, a list of objects or CSV text."),
        ({"data": [1, "2"]}, "item 1 of `data` is not a number; have it cleaned first (data_validation)."),
        ({"data": [{"a": 1}, 2]}, "item 1 of `data` is not an object; have it cleaned first (data_validation)."),
        (
            {"data": [{"a": 1}, {"a": "b"}]},
            "column 'a' has numbers and other things; have it cleaned first (data_validation).",
        ),
        ({"data": [{"a": "b"}]}, "no column of `data` has numbers."),
        ({"data": "a,b\n1,2,3"}, "a line of `data` has 3 values, but there are 2 columns."),
        ({"data": [1e300]}, "item 0 of `data` is not a number; have it cleaned first (data_validation)."),
    ],
)
def test_data_that_cannot_be_reckoned_with_is_refused(
    agents: dict[str, str], given: dict[str, Any], text: str
) -> None:
    assert ask(agents["data_analyzer"], data=given, task="stats_analysis") == Told("failed", text, None)


@pytest.mark.parametrize(
    ("task", "given", "text"),
    [
        ("clean", {"data": ["x", None]}, "nothing of `data` can be used: all 2 items were dropped."),
        ("trend", {"data": [1]}, "a trend needs at least two numbers."),
        (
            "trend",
            {"data": QUARTERS, "column": "profit"},
            "name a column of numbers as `column`; there are: costs, revenue.",
        ),
        ("trend", {"data": QUARTERS}, "name a column of numbers as `column`; there are: costs, revenue."),
        (
            "trend",
            {"data": QUARTERS, "column": ["costs"]},
            "name a column of numbers as `column`; there are: costs, revenue.",
        ),
        (
            "paint",
            {"data": [1]},
            "I do not know the task 'paint'. Name one of these as `task_type`: "
            "data_validation, trend, risk, statistics, total.",
        ),
    ],
)
def test_what_cannot_be_done_is_said(agents: dict[str, str], task: str, given: dict[str, Any], text: str) -> None:
    assert ask(agents["data_analyzer"], data=given, task=task) == Told("failed", text, None)
