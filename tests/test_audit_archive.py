"""The archive of sealed trails: written by many at once, cut off by crashes, tampered with, erased from, and read."""

import json
import multiprocessing
import os
import resource
import signal
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from graph.archive import Archive, Reason, Segment, days
from graph.archive_checks import Finding, Proof
from graph.archive_erasing import erase
from graph.audit import WORDS, start_of
from graph.store.names import thread_name
from tests.test_audit_chain import step, trail
from tests.test_command_line import flows

KEY = b"a secret that nobody has"


def segment(call: str = "CALL-1", count: int = 3, *, key: bytes = b"", reason: Reason = "ended") -> Segment:
    """Return a call's whole trail, sealed."""
    start = start_of(thread_name("default", call), "7f3c")
    steps, head = trail(*(step(n, f"my PIN is {n}, {call}") for n in range(1, count + 1)), start=start, key=key)
    return Segment(call, "default", "7f3c", reason, "call", 1, count, start, head, steps)


def pieces(whole: Segment, *ends: int) -> list[Segment]:
    """Return a trail in pieces that end with these steps."""
    cut, first, start = [], 1, whole.start
    for end in ends:
        steps = whole.steps[first - 1 : end]
        head = steps[-1]["audit"]["hash"]
        cut.append(
            Segment(whole.call_identify_id, "default", "7f3c", "ended", "call", first, end, start, head, steps)
        )
        first, start = end + 1, head
    return cut


def archive_of(folder: Path, *segments: Segment, key: bytes = b"") -> Path:
    """Archive trails one after another; return the day's file."""
    archive = Archive(folder, key=key)
    for each in segments:
        archive.append([each])
    return days(folder)[-1]


def findings(*files: Path, key: bytes = b"") -> list[tuple[int | None, str | None, int | None, str]]:
    """Return the faults of files."""
    return [(f.line, f.call, f.step, f.what) for f in told(*files, key=key) if f.is_fault]


def told(*files: Path, key: bytes = b"") -> list[Finding]:
    """Return all that is said of files."""
    return list(Proof(files, key).findings())


def rewrite(file: Path, change: Callable[[list[Any]], object]) -> None:
    """Tamper with the documents of a file."""
    documents = [json.loads(line) for line in file.read_text().splitlines()]
    change(documents)
    text = "".join(json.dumps(each, ensure_ascii=False, separators=(",", ":")) + "\n" for each in documents)
    file.write_text(text)


MOVED = "was changed, or lines before it are missing, new or in another place"
CHANGED = "was changed, or what came before it is missing, new or in another place"


def test_a_trail_is_one_line_that_only_its_owner_may_read(tmp_path: Path) -> None:
    whole = segment()
    file = archive_of(tmp_path / "archive", whole)
    line = json.loads(file.read_text())

    assert (line.pop("opens"), line["reason"]) == ({"day": file.stem, "after": None}, "ended")
    assert {name: line[name] for name in ("call_identify_id", "tenant", "incarnation", "flow", "first", "count")} == {
        "call_identify_id": "CALL-1",
        "tenant": "default",
        "incarnation": "7f3c",
        "flow": "call",
        "first": 1,
        "count": 3,
    }
    assert (line["start"], line["head"], line["steps"]) == (whole.start, whole.head, whole.steps)
    assert len(line["seal"]) == 43
    assert [oct(path.stat().st_mode)[-3:] for path in (file, file.parent)] == ["600", "700"]
    assert told(file) == []


def test_trails_of_many_processes_at_once_are_all_there_and_sound(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write_twenty, args=(tmp_path, name)) for name in "abcd"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    file = days(tmp_path)[-1]

    assert told(*days(tmp_path)) == []
    lines = [json.loads(line)["call_identify_id"] for line in file.read_text().splitlines()]
    assert sorted(lines) == sorted(f"{name}-{n}" for name in "abcd" for n in range(20))


def _write_twenty(folder: Path, name: str) -> None:
    for number in range(20):
        Archive(folder).append([segment(f"{name}-{number}", 2)])


def test_several_trails_go_in_one_write(tmp_path: Path) -> None:
    seal = Archive(tmp_path).append([segment("a"), segment("b"), segment("c")])
    proof = Proof(days(tmp_path))

    assert list(proof.findings()) == []
    assert (proof.segments, proof.steps, proof.seal) == (3, 9, seal)


def test_a_line_that_was_cut_off_is_told_of_and_never_merged_with_the_next(tmp_path: Path) -> None:
    file = archive_of(tmp_path, segment("a"), segment("b"))
    os.truncate(file, file.stat().st_size - 100)

    cut_off = Finding(file, 2, "was cut off by a crash; what was in it is written again", is_fault=False)
    assert told(file) == [cut_off]
    archive_of(tmp_path, segment("b"), segment("c"))
    assert told(file) == [cut_off]
    one, _, two, three = file.read_text().splitlines()
    assert [json.loads(line)["call_identify_id"] for line in (one, two, three)] == ["a", "b", "c"]


def test_a_line_that_only_lacks_its_end_counts(tmp_path: Path) -> None:
    file = archive_of(tmp_path, segment("a"), segment("b"))
    os.truncate(file, file.stat().st_size - 1)
    archive_of(tmp_path, segment("b"))

    assert told(file) == []


def test_a_write_that_fails_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    file = archive_of(tmp_path, segment("a"))
    before = file.read_bytes()
    context = multiprocessing.get_context("fork")
    writer = context.Process(target=_fail_to_write, args=(tmp_path, len(before) + 200))
    writer.start()
    writer.join()

    assert (writer.exitcode, file.read_bytes()) == (0, before)


def _fail_to_write(folder: Path, most: int) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    with pytest.raises(OSError):
        Archive(folder).append([segment("b")])


def test_a_trail_that_was_delivered_twice_is_sound(tmp_path: Path) -> None:
    one, two, three = pieces(segment(count=6), 2, 4, 6)

    assert told(archive_of(tmp_path, one, one, two, three, two, three, segment(count=6))) == []


def test_what_people_say_and_how_they_are_called_may_be_anything(tmp_path: Path) -> None:
    strange = segment("Ä \u2028 \x85 \"'\\ 🙂")

    assert told(archive_of(tmp_path, strange, segment("b"))) == []


def test_words_that_were_changed_are_found_in_their_step(tmp_path: Path) -> None:
    file = archive_of(tmp_path, segment("a"), segment("b"))
    rewrite(file, lambda lines: lines[1]["steps"][1].update(input_message="I agree"))

    assert findings(file) == [(2, "b", 2, CHANGED)]


def test_steps_removed_from_the_end_of_a_line_are_found(tmp_path: Path) -> None:
    file = archive_of(tmp_path, segment("a"), segment("b"))
    rewrite(file, lambda lines: lines[0]["steps"].pop())

    assert findings(file) == [
        (1, "a", None, "the trail ends with step 2, and should with step 3"),
        (1, "a", None, "the trail does not end with the hash that was kept of its last step"),
    ]


@pytest.mark.parametrize("name", ["call_identify_id", "tenant", "incarnation", "start"])
def test_a_trail_that_was_given_to_another_call_is_found(tmp_path: Path, name: str) -> None:
    file = archive_of(tmp_path, segment("a"), segment("b"))
    rewrite(file, lambda lines: lines[0].update({name: "other"}))
    found = findings(file)

    assert (1, MOVED) in [(line, what) for line, _, _, what in found]
    assert (1, "begins as the trail of another call") in [(line, what) for line, _, _, what in found]


@pytest.mark.parametrize("name", ["reason", "flow", "sealed_at", "count", "head", "note"])
def test_a_line_that_was_changed_is_found(tmp_path: Path, name: str) -> None:
    file = archive_of(tmp_path, segment("a"), segment("b"))
    rewrite(file, lambda lines: lines[0].update({name: 7 if name == "count" else "deleted"}))

    assert (1, "a", None, MOVED) in findings(file)


def test_lines_that_were_removed_or_put_in_another_place_are_found(tmp_path: Path) -> None:
    file = archive_of(tmp_path, *(segment(name) for name in "abcd"))
    whole = file.read_bytes()

    rewrite(file, lambda lines: lines.pop(1))
    assert findings(file) == [(2, "c", None, MOVED)]
    file.write_bytes(whole)
    rewrite(file, lambda lines: lines.reverse())
    assert [line for line, *_ in findings(file)] == [1, 1, 2, 3, 4, 4]
    file.write_bytes(whole)
    rewrite(file, lambda lines: lines.pop(0))
    assert (1, "b", None, "should not be the first of a file: those before it are missing") in findings(file)


def test_a_line_that_became_garbage_is_found(tmp_path: Path) -> None:
    file = archive_of(tmp_path, *(segment(name) for name in "abc"))
    one, two, three = file.read_bytes().splitlines(keepends=True)

    for text, lines in (
        (one + b"{garbage\n" + three, {3}),  # as if cut off, and yet the next line is no longer the one after
        (one + b"garbage\n" + two + three, {2}),
        (one + two + b"{garbage\n", {3}),
        (one + two.replace(b'"first":1', b'"first":"1"') + three, {2}),
        (one + b"[]\n" + b"{}\n" + two + three, {2, 3}),
        (one + two.replace(b'"agent":"greeting"', b'"agent":"evil","agent":"greeting"', 1) + three, {2}),
        (b"\x00\xff\n" + one + two + three, {1}),
        (one + two + b'{"steps":' + b"[" * 100_000 + b"]" * 100_000 + b"}\n" + three, {3}),
    ):
        file.write_bytes(text)
        assert {line for line, *_ in findings(file)} == lines, text[:40]


def test_a_trail_that_does_not_go_on_where_it_ended_is_found(tmp_path: Path) -> None:
    one, _, three = pieces(segment(count=6), 2, 4, 6)

    file = archive_of(tmp_path, one, three, segment("b"))
    assert findings(file) == [(2, "CALL-1", None, "does not go on from step 2, where the line before ended")]


def test_a_trail_goes_on_in_the_file_of_another_day(tmp_path: Path) -> None:
    one, two, three = pieces(segment(count=6), 2, 4, 6)
    first, second = _two_days(tmp_path, one, two)
    archive_of(tmp_path, three)

    assert told(first, second) == []
    before = "the steps before step 3 are in none of these files"
    assert [(finding.what, finding.is_fault) for finding in told(second)][:1] == [(before, False)]


def _two_days(folder: Path, one: Segment, two: Segment) -> tuple[Path, Path]:
    """Archive one trail on a day long ago, and one now."""
    first = folder / "2020-02-28.jsonl"
    today = archive_of(folder, one)
    rewrite(today, lambda lines: _reseal(lines, first.stem))
    today.rename(first)
    return first, archive_of(folder, two)


def _reseal(lines: list[Any], day: str) -> None:
    from graph.archive import seal_of

    lines[0]["opens"]["day"] = day
    lines[0]["seal"] = seal_of(lines[0], None, b"")


def test_lines_missing_at_the_end_of_a_day_are_found_by_the_next_day(tmp_path: Path) -> None:
    first, second = _two_days(tmp_path, segment("a"), segment("b"))
    assert told(first, second) == []

    first.write_bytes(b"")
    assert findings(first) == [(None, None, None, f"its last lines are missing: {second.name} says that it went on")]


def test_a_day_that_is_missing_is_found_where_older_ones_are_kept(tmp_path: Path) -> None:
    first, second = _two_days(tmp_path, segment("a"), segment("b"))
    first.rename(tmp_path / "copy.jsonl")
    missing = "the file before it, of 2020-02-28, is not beside it"

    assert [(each.what, each.is_fault) for each in told(second)] == [(missing, False)]
    (tmp_path / "2019-01-01.jsonl").write_bytes(b"")
    assert [(each.what, each.is_fault) for each in told(second)] == [(missing, True)]


def test_a_file_in_place_of_another_days_is_found_and_a_copy_may_have_any_name(tmp_path: Path) -> None:
    file = archive_of(tmp_path, segment("a"))
    copy = file.rename(tmp_path / "for-the-auditor.jsonl")
    assert told(copy) == []

    other = copy.rename(tmp_path / "2019-01-01.jsonl")
    assert findings(other) == [(1, "a", None, f"belongs into the file of {file.stem}")]


def test_a_replica_with_a_late_clock_does_not_write_behind_a_later_file(tmp_path: Path) -> None:
    (tmp_path / "2999-01-01.jsonl").touch()
    file = archive_of(tmp_path, segment("a"), segment("b"))

    assert (file.name, told(file)) == ("2999-01-01.jsonl", [])


def test_erased_words_are_gone_and_everything_still_verifies(tmp_path: Path) -> None:
    file = archive_of(tmp_path, segment("a"), segment("b"), segment("a"))

    assert erase(file, "default", "a") == 2 * 3 * 2
    assert told(file) == []
    assert ("PIN is 1, a" in file.read_text(), "PIN is 1, b" in file.read_text()) == (False, True)
    assert oct(file.stat().st_mode)[-3:] == "600"
    assert erase(file, "default", "a") == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", file.name]
    archive_of(tmp_path, segment("c"))
    assert told(file) == []


def test_some_fields_of_some_steps_can_be_erased(tmp_path: Path) -> None:
    file = archive_of(tmp_path, segment("a"))

    assert erase(file, "default", "a", fields=["input_message"], numbers=[2]) == 1
    steps = json.loads(file.read_text())["steps"]
    assert [step["input_message"] for step in steps] == ["my PIN is 1, a", "", "my PIN is 3, a"]
    assert steps[1]["response_data"] == {"text": "answer 2"}
    assert told(file) == []


def test_words_of_another_tenant_stay(tmp_path: Path) -> None:
    file = archive_of(tmp_path, segment("a"))
    before = file.read_bytes()

    assert erase(file, "other", "a") == 0
    assert file.read_bytes() == before


def test_words_in_a_line_that_was_cut_off_are_erased_too(tmp_path: Path) -> None:
    file = archive_of(tmp_path, segment("a"), segment("b"))
    os.truncate(file, file.stat().st_size - 200)

    assert erase(file, "default", "b") == 1
    assert "PIN is 1, b" not in file.read_text()
    archive_of(tmp_path, segment("b"))
    assert [finding.is_fault for finding in told(file)] == [False]


def test_erasing_from_a_trail_that_was_tampered_with_does_not_mend_it(tmp_path: Path) -> None:
    file = archive_of(tmp_path, segment("a"))
    rewrite(file, lambda lines: lines[0]["steps"][1].update(input_message="I agree"))
    erase(file, "default", "a", fields=WORDS)

    assert findings(file) == [(1, "a", 2, CHANGED)]
    assert "I agree" not in file.read_text()


def test_erasing_while_others_write_loses_nothing(tmp_path: Path) -> None:
    file = archive_of(tmp_path, *(segment(f"old-{n}") for n in range(5)))
    context = multiprocessing.get_context("fork")
    writer = context.Process(target=_write_twenty, args=(tmp_path, "new"))
    writer.start()
    erased = [erase(file, "default", f"old-{n}") for n in range(5)]
    writer.join()

    assert erased == [6] * 5
    proof = Proof(days(tmp_path))
    assert (list(proof.findings()), proof.segments) == ([], 25)


def test_with_a_key_only_who_has_it_can_make_an_archive(tmp_path: Path) -> None:
    file = archive_of(tmp_path / "ours", segment("a", key=KEY), segment("b", key=KEY), key=KEY)
    forged = archive_of(tmp_path / "forged", segment("a"), segment("b"))

    assert told(file, key=KEY) == []
    assert [line for line, *_ in findings(forged, key=KEY)] == [1, 2]
    assert findings(forged, key=KEY)[0][3].startswith("is sealed with no key, and FLOWS_AUDIT_KEY is the key ")
    assert [line for line, *_ in findings(file)] == [1, 2]
    assert len(findings(file, key=KEY + b"!")) == 2
    rewrite(
        forged, lambda lines: [each.update(key=json.loads(file.read_text().splitlines()[0])["key"]) for each in lines]
    )
    assert {line for line, *_ in findings(forged, key=KEY)} == {1, 2}


def test_a_step_that_no_json_can_hold_is_told_of_in_its_place(tmp_path: Path) -> None:
    whole = segment("a")
    steps = [whole.steps[0], {"number": 2, "stage": "\ud800"}, whole.steps[2]]
    file = archive_of(
        tmp_path, Segment("a", "default", "7f3c", "ended", "call", 1, 3, whole.start, whole.head, steps)
    )

    assert json.loads(file.read_text())["steps"][1] == {"number": 2, "unreadable": True}
    assert [step for _, _, step, _ in findings(file)] == [2, 3]


def test_a_file_is_read_in_bounded_memory(tmp_path: Path) -> None:
    file = archive_of(tmp_path, segment("a"))
    archive = Archive(tmp_path)
    trails = [segment(f"call-{n}", 40) for n in range(25)]
    for _ in range(20):
        archive.append(trails)
    tracemalloc.start()
    try:
        assert findings(file) == []
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert file.stat().st_size > 7_000_000
    assert peak < 5_000_000


def test_the_command_says_that_files_are_sound(tmp_path: Path) -> None:
    file = archive_of(tmp_path, segment("a"), segment("b"))
    seal = json.loads(file.read_text().splitlines()[-1])["seal"]

    for named in (file, tmp_path):
        done = flows("audit", "verify", str(named))
        sound = f"what was archived is sound: 2 trails, 6 steps; last seal {seal}\n"
        assert (done.returncode, done.stdout, done.stderr) == (0, sound, "")


def test_the_command_says_what_is_wrong_and_where(tmp_path: Path) -> None:
    file = archive_of(tmp_path, segment("a"), segment("b"))
    rewrite(file, lambda lines: lines[1]["steps"][1].update(input_message="I agree"))

    done = flows("audit", "verify", str(file))
    assert (done.returncode, done.stderr) == (1, f"{file}:2: call 'b': step 2 {CHANGED}\n")
    assert done.stdout.startswith("what was archived is not as it was sealed: 2 trails, 6 steps; ")


def test_the_command_takes_the_key_from_the_environment(tmp_path: Path) -> None:
    file = archive_of(tmp_path, segment("a", key=KEY), key=KEY)

    assert flows("audit", "verify", str(file), env={"FLOWS_AUDIT_KEY": KEY.decode()}).returncode == 0
    assert flows("audit", "verify", str(file)).returncode == 1


@pytest.mark.parametrize(
    ("named", "says"),
    [
        ("nowhere/2020-01-01.jsonl", "there is no file 'nowhere/2020-01-01.jsonl'"),
        ("CALL-7", "no service answers at http://127.0.0.1:9"),
        (".", "cannot read '.': there is no file of a day in it"),
    ],
)
def test_the_command_says_what_it_cannot_read(tmp_path: Path, named: str, says: str) -> None:
    named = str(tmp_path) if named == "." else named
    done = flows("audit", "verify", named, "--url", "http://127.0.0.1:9")

    assert (done.returncode, done.stdout) == (2, "")
    assert says.replace("'.'", repr(named)) in done.stderr
    assert "Traceback" not in done.stderr


def test_the_command_erases_a_call_from_a_folder(tmp_path: Path) -> None:
    file = archive_of(tmp_path, segment("a"), segment("b"))

    done = flows("audit", "erase", str(tmp_path), "a", "--field", "input_message", "--step", "1", "--step", "2")
    assert (done.returncode, done.stdout) == (0, f"erased 2 fields of call 'a' from {tmp_path}\n")
    assert told(file) == []
    assert flows("audit", "erase", str(file), "nobody").returncode == 1
    assert flows("audit", "erase", str(file), "a", "--field", "agent").returncode == 2


def test_the_verifier_in_the_documentation_finds_what_ours_finds(tmp_path: Path) -> None:
    docs = (Path(__file__).parent.parent / "docs" / "audit.md").read_text(encoding="utf-8")
    shown: dict[str, Any] = {"__name__": "shown"}
    exec(docs.split("```python\n")[1].split("```")[0], shown)
    check = shown["check"]
    strange = segment("Ä \u2028 🙂")
    numbers = [step(1, "Hello", {"data": [1, 1.0, -0.0, 1e16, 1e-5, 0.1, 2**63, 5e-324, True, None]}), step(2, "Bye")]
    steps, head = trail(*numbers, start=strange.start, key=KEY)
    many = Segment("n", "default", "7f3c", "ended", "call", 1, 2, strange.start, head, steps)

    file = archive_of(tmp_path, segment("a", key=KEY), many, segment("b", key=KEY), key=KEY)
    assert list(check(file.read_bytes().splitlines(), KEY)) == []
    erase(file, "default", "a")
    assert list(check(file.read_bytes().splitlines(), KEY)) == []
    rewrite(file, lambda lines: lines[2]["steps"][1].update(input_message="I agree"))
    rewrite(file, lambda lines: lines[1].update(reason="deleted"))
    assert list(check(file.read_bytes().splitlines(), KEY)) == [(2, "seal"), (3, 2)]
    assert (2, "n", None, MOVED) in findings(file, key=KEY)
    assert (3, "b", 2, CHANGED) in findings(file, key=KEY)
