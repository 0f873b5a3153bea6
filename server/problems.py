"""What goes wrong, as `application/problem+json` (RFC 9457): one table from errors to wire codes for every door."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
import structlog
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from graph.routing import Refused
from graph.store.errors import Busy, OutcomeUnknown, Replaced, SaveUnknown, StoreError, TurnLost
from graph.store.registry import RegistryFull

log = structlog.get_logger()

MEDIA_TYPE = "application/problem+json"


class BadInput(Exception):
    """A request that cannot be understood.

    Attributes:
        errors: for each field, its name and what to do.
    """

    def __init__(self, errors: Sequence[Mapping[str, str]]) -> None:
        super().__init__("; ".join(f"{error['field']}: {error['message']}" for error in errors))
        self.errors = list(errors)


class BodyTooLarge(Exception):
    """A request body longer than we read."""


class NotJson(Exception):
    """A web page sent something else than JSON, as a form on any site could."""


class KeyReused(Exception):
    """An idempotency key names another message than it did before."""


class AlreadyBegun(KeyReused):
    """What a message was to begin exists already, begun by another message."""


class SessionNotFound(Exception):
    """No call of that name has taken a turn, or it has expired."""


class NotAdmin(Exception):
    """Only who administers the service may do this."""


class FlowNotFound(Exception):
    """No flow of that name is served."""


class AgentNotFound(Exception):
    """No flow names such an agent, and none is registered."""


class AgentInFlow(Exception):
    """An agent that stands in a flow cannot be taken away here."""


class WorkflowNotFound(Exception):
    """No workflow of that name was made."""


class ExecutionNotFound(Exception):
    """No execution of that name has begun, or it has expired."""


class ExecutionEnded(Exception):
    """The execution has ended, so that nothing can be done with it any more."""


class NotWaiting(Exception):
    """The execution waits for nobody's answer."""


class OutOfTime(Exception):
    """The deadline that the client set has passed; its message may be answered all the same."""


class ParkedNotFound(Exception):
    """No parked write of that name waits."""


class ResolvedOtherwise(Exception):
    """The parked write was settled already, and otherwise."""


class TicketNotFound(Exception):
    """No ticket of that name was sent."""


class TicketReused(Exception):
    """A ticket's name is that of another ticket."""


class Stopping(Exception):
    """The service was told to stop, and takes no more calls soon."""


class Problem(BaseModel):
    """An error, as RFC 9457 says."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "type": "session-not-found",
                    "title": "There is no such session",
                    "status": 404,
                    "detail": "no session 'CALL-001'; it never began, was deleted, or has expired",
                }
            ]
        }
    )

    type: str
    title: str
    status: int
    detail: str


@dataclass(frozen=True, slots=True)
class Row:
    """How one kind of error looks on the wire."""

    status: int
    type: str
    title: str
    headers: Mapping[str, str] = field(default_factory=dict)
    code: int = -32603
    """The JSON-RPC or A2A error code."""


_INVALID, _UNSUPPORTED = -32602, -32004

TABLE: Mapping[type[Exception], Row] = {
    BadInput: Row(422, "bad-input", "The request cannot be understood", code=_INVALID),
    BodyTooLarge: Row(413, "body-too-large", "The request is too large", code=-32600),
    NotJson: Row(415, "unsupported-media-type", "The request is not JSON", code=-32005),
    SessionNotFound: Row(404, "session-not-found", "There is no such session", code=-32001),
    NotAdmin: Row(
        401, "not-admin", "Only who administers the service may do this", {"www-authenticate": "Bearer"}, -32600
    ),
    FlowNotFound: Row(404, "flow-not-found", "There is no such flow", code=_INVALID),
    AgentNotFound: Row(404, "agent-not-found", "There is no such agent", code=_INVALID),
    AgentInFlow: Row(409, "agent-in-flow", "The agent stands in a flow", code=_UNSUPPORTED),
    RegistryFull: Row(409, "registry-full", "The registry of agents is full", {"retry-after": "60"}, _UNSUPPORTED),
    WorkflowNotFound: Row(404, "workflow-not-found", "There is no such workflow", code=_INVALID),
    ExecutionNotFound: Row(404, "execution-not-found", "There is no such execution", code=-32001),
    ExecutionEnded: Row(409, "execution-ended", "The execution has ended", code=_UNSUPPORTED),
    NotWaiting: Row(409, "not-waiting", "The execution waits for no answer", code=_UNSUPPORTED),
    TicketNotFound: Row(404, "ticket-not-found", "There is no such ticket", code=-32001),
    TicketReused: Row(409, "ticket-reused", "The ticket_id names another ticket", code=_INVALID),
    KeyReused: Row(422, "key-reused", "The idempotency key names another message", code=_INVALID),
    OutcomeUnknown: Row(409, "outcome-unknown", "What came of a write of this call is not known", code=_UNSUPPORTED),
    ParkedNotFound: Row(404, "parked-not-found", "There is no such parked write", code=-32001),
    ResolvedOtherwise: Row(409, "resolved-otherwise", "The parked write was settled otherwise", code=_UNSUPPORTED),
    OutOfTime: Row(504, "out-of-time", "The deadline has passed", {"retry-after": "1"}),
    Replaced: Row(409, "turn-replaced", "A later message took this one's place", code=_UNSUPPORTED),
    Busy: Row(409, "turn-in-flight", "Another turn of this call is in flight", {"retry-after": "1"}, _UNSUPPORTED),
    TurnLost: Row(409, "turn-lost", "Another turn of this call has taken over", {"retry-after": "1"}, _UNSUPPORTED),
    Stopping: Row(503, "stopping", "The service stops", {"retry-after": "1"}),
    StoreError: Row(503, "store-unavailable", "The store does not answer", {"retry-after": "2"}),
}
REFUSALS: Mapping[str, Row] = {
    "intent-not-legal": Row(409, "intent-not-legal", "The intent is not legal at this stage", code=_INVALID),
    "call-complete": Row(409, "call-complete", "The call is complete", code=_UNSUPPORTED),
    "call-ended": Row(409, "call-ended", "The call has ended", code=_UNSUPPORTED),
    "flow-changed": Row(
        409, "flow-changed", "The call is at a stage that this service's flow does not have", code=_UNSUPPORTED
    ),
    "input-missing": Row(422, "input-missing", "The flow's inputs are missing", code=_INVALID),
    "another-flow": Row(409, "another-flow", "The call is of another flow", code=_INVALID),
    "another-account": Row(409, "another-account", "The call belongs to another account", code=_INVALID),
}
_HTTP_ERRORS = {404: ("not-found", "There is nothing here"), 405: ("method-not-allowed", "Not with this method")}
INTERNAL = Row(500, "internal-error", "Something went wrong on our side")
_DETAILS = {
    "store-unavailable": "what was asked was probably not done; send it again in a moment, and with the same "
    "Idempotency-Key if it had one",
    "internal-error": "the turn was not answered; send it again, and tell the operator if it happens twice",
}


def respond(row: Row, detail: str, **facts: Any) -> Response:
    """Return the problem document as an answer."""
    return _answer(row, _document(row, detail, facts))


def problem_of(error: Exception) -> Response:
    """Translate an error that a door raised."""
    return _answer(row_of(error), document_of(error))


def row_of(error: Exception) -> Row:
    """Return how the error looks on the wire."""
    if isinstance(error, Refused):
        return REFUSALS[error.reason]
    return next((TABLE[kind] for kind in type(error).__mro__ if kind in TABLE), INTERNAL)


def code_of(problem: Mapping[str, Any]) -> int:
    """Return the JSON-RPC or A2A error code of a problem document."""
    rows = (*TABLE.values(), *REFUSALS.values())
    return next((row.code for row in rows if row.type == problem.get("type")), INTERNAL.code)


def document_of(error: Exception) -> dict[str, Any]:
    """Return the problem document of an error; nothing internal is in it."""
    row = row_of(error)
    if isinstance(error, SaveUnknown):
        return _document(row, f"{error}; look at the session before you send it again", {})
    facts = error.facts if isinstance(error, Refused) else {}
    if isinstance(error, BadInput):
        facts = {"errors": error.errors}
    if isinstance(error, OutcomeUnknown):
        facts = {"parked": error.parked[0] if error.parked else None, "parked_ids": error.parked}
    return _document(row, _DETAILS.get(row.type) or str(error), facts)


def _document(row: Row, detail: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": row.type, "title": row.title, "status": row.status, "detail": detail, **facts}


def _answer(row: Row, document: Mapping[str, Any]) -> Response:
    return Response(orjson.dumps(document), row.status, dict(row.headers), MEDIA_TYPE)


def bad_input(error: ValidationError | RequestValidationError) -> BadInput:
    """Say for each field what is wrong, without repeating what was sent."""
    return BadInput([_field_error(detail) for detail in error.errors()])


def install(app: FastAPI) -> None:
    """Let the app answer errors with problem documents."""
    for kind in (*TABLE, Refused):
        app.add_exception_handler(kind, _handler)
    app.exception_handler(RequestValidationError)(_on_validation)
    app.exception_handler(HTTPException)(_on_http)
    app.exception_handler(ClientDisconnect)(_on_hang_up)
    app.add_exception_handler(Exception, _on_bug)


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Describe the problems a door may answer with, for the OpenAPI document."""
    rows = [*TABLE.values(), *REFUSALS.values()]
    titles = {status: "; ".join(row.title for row in rows if row.status == status) for status in statuses}
    return {
        status: {"description": title or "Error", "content": {MEDIA_TYPE: {"schema": Problem.model_json_schema()}}}
        for status, title in titles.items()
    }


async def _handler(request: Request, error: Exception) -> Response:
    if isinstance(error, StoreError):
        log.warning("turn not answered", path=request.url.path, reason=str(error))
    return problem_of(error)


async def _on_validation(request: Request, error: RequestValidationError) -> Response:
    return problem_of(bad_input(error))


async def _on_http(request: Request, error: HTTPException) -> Response:
    kind, title = _HTTP_ERRORS.get(error.status_code, ("http-error", "The request was not answered"))
    detail = str(error.detail)
    if detail in ("Not Found", "Method Not Allowed"):  # Starlette's own words for a path that is no door
        detail = f"{request.method} leads nowhere at this path; see /docs for what does"
    return respond(Row(error.status_code, kind, title, error.headers or {}), detail)


async def _on_hang_up(request: Request, error: ClientDisconnect) -> Response:
    return Response(status_code=400)  # nobody reads it


async def _on_bug(request: Request, error: Exception) -> Response:
    log.error("request failed", path=request.url.path, exc_info=error)
    return problem_of(error)


def _field_error(detail: Any) -> dict[str, str]:
    where = ".".join(str(part) for part in detail["loc"] if part not in ("body", "path", "query"))
    message = detail["msg"].removeprefix("Value error, ")
    if detail["type"] == "missing":
        message = "it is missing; add it"
    if detail["type"] == "json_invalid":
        message = f"{message[:1].lower()}{message[1:]}; send a JSON object in UTF-8"
    return {"field": where or "body", "message": message}
