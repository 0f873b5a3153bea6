"""Runs the A2A TCK against this service, and says what passed.

    python -m bench.tck CHECKOUT [--python VENV/bin/python] [--level must …] [--agent]

CHECKOUT is an unpacked a2aproject/a2a-tck, of the branch 1.0-dev or 0.3.x; the Python has what the TCK needs
installed (but not the TCK). The service relays to `tests/tck_agent.py`; with `--agent` that agent is asked itself,
which tells what is `a2a-sdk`'s doing.
"""

import argparse
import asyncio
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from xml.etree import ElementTree

from bench.processes import Running, StartError, free_port, http_answers, http_ready, running


@dataclass(frozen=True, slots=True)
class Kit:
    """A TCK: the version it is for, and what pytest is told for each of its levels."""

    version: str
    url_option: str
    options: tuple[str, ...]
    levels: dict[str, tuple[str, ...]]


KITS = {
    "tests/compatibility": Kit(
        "1.0",
        "--sut-host",
        ("--transport=jsonrpc",),
        {level: ("tests/compatibility", "-m", level) for level in ("must", "should", "may")},
    ),
    "tests/mandatory": Kit(
        "0.3",
        "--sut-url",
        ("--test-scope=all", "--transports=jsonrpc"),
        {
            "mandatory": ("tests/mandatory", "-m", "mandatory_jsonrpc or mandatory_protocol"),
            **{level: (f"tests/optional/{level}",) for level in ("capabilities", "quality", "features")},
        },
    ),
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of the tests of one level; what did not pass is told by its name and the first line of why."""

    level: str
    passed: int
    skipped: int
    failed: list[tuple[str, str]]
    forgiven: list[tuple[str, str]]
    """What failed though the TCK asks for it: most of its SHOULD, and what it knows it cannot find on one machine."""


async def run(checkout: Path, python: str, levels: Sequence[str], *, agent_itself: bool) -> list[Outcome]:
    """Run the levels named (all, if none is) one after the other."""
    kit = kit_in(checkout)
    async with AsyncExitStack() as stack:
        asked = await stack.enter_async_context(_agent(kit.version))
        if not agent_itself:
            asked = await stack.enter_async_context(_service(kit.version, asked))
        return [await _level(kit, level, checkout, python, f"{asked.url}/") for level in levels or kit.levels]


def kit_in(checkout: Path) -> Kit:
    """Return which TCK this is. Raises `StartError`."""
    for folder, kit in KITS.items():
        if (checkout / folder).is_dir():
            return kit
    raise StartError(f"{checkout} holds no TCK: neither {' nor '.join(KITS)}")


@asynccontextmanager
async def _agent(version: str) -> AsyncIterator[Running]:
    port = free_port()
    command = [sys.executable, "-m", "tests.tck_agent", str(port), version]
    async with running("the TCK's agent", command, dict(os.environ), port, http_answers) as agent:
        yield agent


@asynccontextmanager
async def _service(version: str, agent: Running) -> AsyncIterator[Running]:
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="tck-") as data:
        env = {key: value for key, value in os.environ.items() if not key.startswith("FLOWS_") and key != "REDIS_URL"}
        env |= {
            "FLOWS_FLOW": "relay",
            "RELAY_AGENT_URL": agent.url,
            "FLOWS_PORT": str(port),
            "FLOWS_DATA_DIR": data,
            # The TCK of 0.3 asks for the card where that of 1.0 does, and neither says which it wants.
            "FLOWS_A2A_CARD": version,
            "FLOWS_PUSH_ALLOW": "localhost",
        }
        command = [str(Path(sys.executable).with_name("flows")), "serve"]
        async with running("the service", command, env, port, http_ready) as service:
            yield service


async def _level(kit: Kit, level: str, checkout: Path, python: str, url: str) -> Outcome:
    with tempfile.TemporaryDirectory(prefix="tck-") as folder:
        report = Path(folder) / "junit.xml"
        asked = [f"{kit.url_option}={url}", *kit.options, *kit.levels[level]]
        # What the checkout itself asks for may write reports into it; it stays as it is.
        command = [python, "-B", "-m", "pytest", *asked, "-q", "-p", "no:cacheprovider", f"--junitxml={report}"]
        process = await asyncio.create_subprocess_exec(
            *command, cwd=checkout, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        said, _ = await process.communicate()
        if not report.exists():
            raise StartError(f"pytest did not run:\n{said.decode(errors='replace')[-2000:]}")
        return outcome(level, report)


def outcome(level: str, report: Path) -> Outcome:
    """Read a JUnit report."""
    told = Outcome(level, 0, 0, [], [])
    passed, skipped = 0, 0
    for case in ElementTree.parse(report).iter("testcase"):
        found = next((child for child in case if child.tag in ("failure", "error", "skipped")), None)
        if found is None:
            passed += 1
        elif found.tag == "skipped" and found.get("type") != "pytest.xfail":
            skipped += 1
        else:
            failures = told.forgiven if found.tag == "skipped" else told.failed
            failures.append((case.get("name", ""), _first_line(found.get("message", ""))))
    return replace(told, passed=passed, skipped=skipped)


def _first_line(message: str) -> str:
    lines = message.strip().splitlines() or [""]
    return lines[0][:200]


def show(version: str, outcomes: Sequence[Outcome]) -> None:
    """Print the counts, and what did not pass."""
    print(f"| A2A TCK {version} | passed | failed | forgiven | skipped |\n|---|---:|---:|---:|---:|")
    for told in outcomes:
        print(f"| {told.level} | {told.passed} | {len(told.failed)} | {len(told.forgiven)} | {told.skipped} |")
    for told in outcomes:
        for name, why in (*told.failed, *told.forgiven):
            print(f"{told.level}: {name}\n    {why}")


def main() -> None:
    """Read the command line and run; exit with 1 if anything failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--python", default=sys.executable, help="one that has the TCK's needs (default: this one)")
    parser.add_argument("--level", action="append", default=[], help="one of its levels, more than once if need be")
    parser.add_argument("--agent", action="store_true", help="ask the TCK's agent itself, without the service")
    given = parser.parse_args()
    try:
        outcomes = asyncio.run(run(given.checkout, given.python, given.level, agent_itself=given.agent))
    except StartError as error:
        sys.exit(str(error))
    show(kit_in(given.checkout).version, outcomes)
    sys.exit(any(told.failed for told in outcomes))


if __name__ == "__main__":
    main()
