"""The page of the bench judges everything that is asked for, and its picture is made of the figures alone."""

from dataclasses import replace
from xml.etree import ElementTree

from bench import a2a, report, workers
from bench.chart import Curve, Point, draw
from bench.contestants import NAMES
from bench.load import Speed
from bench.plan import FULL
from bench.results import Results
from bench.starting import Start
from bench.store_cost import StoreCost
from bench.targets import seen_before, targets_of

SPEED = Speed(turns=1000, turns_per_second=500, p50_ms=2, p99_ms=4, cpu_ms=1)
STORE = StoreCost(20, 2, 2, 2, 2, 5000, 5200, 0, {"evalsha": 10})


def a_run() -> Results:
    """Return a whole run that kept every target."""
    results = Results(NAMES, FULL)
    for name in NAMES:
        results.rounds.seen |= {(name, number): [SPEED] * 5 for number in FULL.calls | FULL.further}
        results.growth[name] = dict.fromkeys(FULL.points, 2.0)
        results.store[name] = STORE
    results.filled.seen = {(f"{many:,} calls", 8): [SPEED] * 5 for many in FULL.filled}
    results.workers.seen = {(name, workers.IN_FLIGHT): [SPEED] * 5 for name in (workers.ONE, workers.TWO)}
    results.a2a.seen = {(name, number): [SPEED] * 5 for name in (a2a.OURS, a2a.ECHO) for number in FULL.a2a_calls}
    results.starts = [Start(2.0, 2.1)] * 5
    results.lasting = dict.fromkeys(FULL.lasting, 150_000_000)
    return results


def test_every_target_is_judged() -> None:
    targets = targets_of(a_run())

    assert len(targets) == 15
    assert all(target.kept for target in targets)
    assert seen_before().keys() <= {target.what for target in targets}


def test_a_target_that_is_missed_says_so() -> None:
    results = a_run()
    results.rounds.seen["core", 32] = [replace(SPEED, turns_per_second=400)] * 5

    page = report.page(results, "python -m bench", 1.0, "latency.svg")

    assert "| core: turns/s at 32 in flight, × handwritten | ≥ 1 | 0.65 | 0.80 | 0.80 (0.80–0.80) | **no** |" in page
    assert page.count("**no**") == 1


def test_a_part_alone_is_a_page() -> None:
    results = Results(NAMES, FULL, starts=[Start(2.0, 2.1)] * 5)

    page = report.page(results, "python -m bench --part start", 1.0, "latency.svg")

    assert "| seconds from start to first answer | ≤ 3.5 |" in page
    assert "Whole five-turn calls" not in page
    assert report.picture(results) is None


def test_the_picture_has_a_dot_for_each_number_in_flight() -> None:
    points = [Point(1, 400, 2, 4), Point(8, 500, 16, 30), Point(64, 480, 120, 300)]

    picture = draw([Curve("ours & theirs", points), Curve("peer", points)])

    drawn = ElementTree.fromstring(picture)
    assert len(drawn.findall("{http://www.w3.org/2000/svg}circle")) == 2 * 2 * len(points)
    assert picture == draw([Curve("ours & theirs", points), Curve("peer", points)])
