"""Where replicas come from: one process that has imported everything and forks a service whenever it is told to.

`python -m tests.chaos.replica` reads lines of JSON, each `{"env": {…}, "log": FILE, "broken": NAME or null}`, and
answers each with the pid of a process that runs exactly what `flows serve` runs. A replica is killed often, and
importing takes seconds: those are what this saves.
"""

import json
import os
import signal
import sys
import traceback
from importlib import import_module
from typing import Any

_HEAVY = (
    *("a2a.client.card_resolver", "graph.store.langgraph_redis", "nodes.remote.transport"),
    *("server.app", "server.commands.serving", "server.runtime"),
)
"""What a service imports as it starts, or with its first turn."""


def main() -> None:
    """Fork a replica for every line."""
    for name in _HEAVY:
        import_module(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the dead are reaped at once, so that a pid tells who is alive
    print("ready", flush=True)
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            _live(json.loads(line))
        print(pid, flush=True)


def _live(told: dict[str, Any]) -> None:
    """Be a replica until the end."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    log = os.open(told["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    for number in (1, 2):
        os.dup2(log, number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.update(told["env"])
    code = 1
    try:
        if told["broken"]:
            from tests.chaos.broken import break_product

            break_product(told["broken"])
        from server.commands.serving import run_service

        run_service({})
        code = 0
    except BaseException:  # noqa: BLE001  (a fork must never return to its parent's loop)
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main()
