"""What goes wrong, as the errors of A2A: by the same table as at every door, in the words of A2A's clients."""

from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from typing import Any

import orjson
import structlog
from a2a.utils.errors import JSON_RPC_ERROR_CODE_MAP, A2AError, InternalError

from graph.store.effects import call_of
from server.a2a.telling import TurnFailed
from server.problems import INTERNAL, code_of, document_of, row_of

_BY_CODE = {code: kind for kind, code in JSON_RPC_ERROR_CODE_MAP.items()}
_ENDED = ("call-complete", "call-ended")
_PASSING = ("turn-in-flight", "turn-lost")
_KEPT_BACK = ("event", "turn", "nth", "run", "status", "title")

log = structlog.get_logger()


@contextmanager
def translated() -> Iterator[None]:
    """Raise the A2A error that the table of problems has for what went wrong; nothing internal is in it."""
    try:
        yield
    except (A2AError, GeneratorExit):
        raise
    except TurnFailed as error:
        raise _error(code_of(error.problem), error.problem) from error
    except Exception as error:
        row = row_of(error)
        if row is INTERNAL:
            log.exception("message not answered")
        raise _error(row.code, document_of(error)) from error


def translating(method: Callable[..., Awaitable[Any]]) -> Callable[..., Any]:
    """Return the method with what goes wrong in it translated."""

    @wraps(method)
    async def translating_method(*args: Any, **named: Any) -> Any:
        with translated():
            return await method(*args, **named)

    return translating_method


def _error(code: int, problem: Mapping[str, Any]) -> A2AError:
    facts = {key: value for key, value in problem.items() if key not in _KEPT_BACK}
    if parked := problem.get("parked"):  # a client that named no context finds its task by it
        facts["contextId"] = call_of(parked)
    kind = _BY_CODE.get(code, InternalError)
    return kind(_words(problem), data=_as_metadata(facts))


def _words(problem: Mapping[str, Any]) -> str:
    detail, kind = str(problem.get("detail", "")), problem.get("type")
    if kind in _ENDED:
        ended = "completed" if kind == "call-complete" else problem.get("ended")
        return f"the task has ended{f' (TASK_STATE_{ended.upper()})' if ended else ''}; begin another"
    if kind in _PASSING and "again" not in detail:
        detail += "; send it again in a moment"
    return detail.replace("call_identify_id", "contextId")


def _as_metadata(facts: dict[str, Any]) -> dict[str, str]:
    """Write facts as `google.rpc.ErrorInfo` wants them: all text, as JSON what is none."""
    told = {key: value for key, value in facts.items() if key != "detail"}
    return {key: value if isinstance(value, str) else orjson.dumps(value).decode() for key, value in told.items()}
