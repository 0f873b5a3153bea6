"""A service that is told to stop, as a process manager does it, does not wait for those who only listen."""

import signal
import time
from pathlib import Path

import httpx

from tests.a2a_client import Client
from tests.test_command_line import serving


def test_sigterm_ends_the_streams_of_tasks_that_wait(tmp_path: Path, agents: dict[str, str]) -> None:
    with serving(tmp_path, agents) as (url, process), httpx.Client(base_url=url, timeout=30) as http:
        new, old = Client(http), Client(http, "0.3")
        task = new.send("Hello")["id"]
        following = [new.subscribe(task), old.subscribe(task)]
        for events in following:
            next(events)
        with http.stream("POST", f"/a2a/call/rest/tasks/{task}:subscribe", headers={"A2A-Version": "1.0"}) as rest:
            lines = rest.iter_lines()
            assert next(lines).startswith("data:")

            process.send_signal(signal.SIGTERM)
            asked = time.monotonic()

            assert process.wait(timeout=20) == 0
            assert time.monotonic() - asked < 5
            assert [event for events in following for event in events] == []
            assert not any(line.startswith("data:") for line in lines)
