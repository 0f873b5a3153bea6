"""A person at a terminal, who types when words appear on it."""

import os
import pty
import re
import select
import signal
import time
from collections.abc import Mapping, Sequence

CTRL_C = "\x03"
_COMMANDS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_AT_MOST_SECONDS = 60
_PATIENCE = 5.0


def typed_at(command: Sequence[str], script: Sequence[tuple[str, str]], env: Mapping[str, str]) -> tuple[str, int]:
    """Run a command at a terminal; return what was to be seen, without colours and cursor moves, and the exit code.

    Args:
        command: the program and its arguments.
        script: pairs of words to wait for and of the line to type then; `CTRL_C` is a key, not a line.
        env: what the environment holds besides ours.
    """
    process, screen = pty.fork()
    if process == 0:
        os.execve(command[0], list(command), {**os.environ, "TERM": "xterm", "COLUMNS": "100", **env})
    seen, waiting, left = "", list(script), time.monotonic() + _AT_MOST_SECONDS
    read_to, line = 0, ""
    while (news := _read(screen, _PATIENCE)) is not None and time.monotonic() < left:
        seen += news
        if not news and line == CTRL_C:  # readline does not hear it in the moment after its prompt: who is there
            os.write(screen, line.encode())  # presses it again
        while waiting and (at := seen.find(waiting[0][0], read_to)) >= 0:
            words, line = waiting.pop(0)
            read_to = at + len(words)
            os.write(screen, (line if line == CTRL_C else f"{line}\n").encode())
    if time.monotonic() > left:
        os.kill(process, signal.SIGKILL)
    _, status = os.waitpid(process, 0)
    os.close(screen)
    return _COMMANDS.sub("", seen), os.waitstatus_to_exitcode(status)


def _read(screen: int, seconds: float) -> str | None:
    """Return what appears next, nothing after so many seconds; None once the program has ended."""
    if not select.select([screen], [], [], seconds)[0]:
        return ""
    try:
        return os.read(screen, 65_536).decode(errors="replace") or None
    except OSError:  # as Linux says that nobody holds the other side any more
        return None
