"""The peer we measure against: what a good engineer writes in a day with FastAPI, redis-py and httpx.

The same contract, stages, intents and agents as the service; no graph, no lock and no recovery, and nothing
that slows it down. Run by `python -m bench.handwritten`, configured by REDIS_URL, PORT and *_AGENT_URL.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Annotated, Any, Literal
from uuid import uuid4

import httpx
import redis.asyncio as redis
import uvicorn
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

Status = Literal["success", "error"]

SESSION_TTL_SECONDS = 3600
AGENT_TIMEOUT_SECONDS = 15.0
LAST_STAGE = 5
STAGE_LABELS = {1: "GREETING", 2: "AUTHENTICATION", 3: "INTENT_CAPTURE", 4: "FULFILLMENT", 5: "CLOSING"}
STAGE_INTENTS: dict[int, dict[str, str]] = {
    1: {"greeting": "greeting", "welcome": "greeting"},
    2: {"verify_identity": "auth", "authenticate": "auth", "otp_verify": "auth"},
    3: {
        "refund_request": "refund",
        "billing_inquiry": "billing",
        "booking_request": "booking",
        "complaint": "complaint",
        "account_inquiry": "account",
        "balance_inquiry": "balance",
    },
    4: {
        "process_refund": "refund",
        "process_payment": "billing",
        "confirm_booking": "booking",
        "resolve_complaint": "complaint",
        "update_account": "account",
        "check_balance": "balance",
    },
    5: {"closing": "closing", "end_call": "closing", "feedback": "closing"},
}
KNOWN_INTENTS = {intent for intents in STAGE_INTENTS.values() for intent in intents}
AGENT_PORTS = {
    "greeting": 8001,
    "auth": 8002,
    "refund": 8003,
    "billing": 8004,
    "booking": 8005,
    "complaint": 8006,
    "account": 8007,
    "balance": 8008,
    "closing": 8009,
    "fallback": 8010,
}
AGENT_URLS = {
    name: os.environ.get(f"{name.upper()}_AGENT_URL", f"http://{name}-agent:{port}")
    for name, port in AGENT_PORTS.items()
}


class OrchestrateRequest(BaseModel):
    """One turn, as the client sends it."""

    call_identify_id: str = Field(min_length=1, max_length=200)
    account_id: str
    eci: str
    input_message: str
    intent: str | None = None


class Step(BaseModel):
    """One agent call of the audit trail."""

    intent_flow_id: int
    intent: str
    input_message: str
    a2a_agent_url: str
    response_status: Status
    response_data: dict[str, Any]
    timestamp: datetime


class Session(BaseModel):
    """A call, kept in Redis as one JSON document."""

    call_identify_id: str
    account_id: str
    eci: str
    current_flow_id: int = 1
    completed_flows: list[int] = []
    is_complete: bool = False
    steps: list[Step] = []
    created_at: datetime
    updated_at: datetime


class SessionSummary(BaseModel):
    """What the last answer of a call carries: the whole audit trail."""

    call_identify_id: str
    account_id: str
    completed_flows: list[int]
    total_steps: int
    steps: list[Step]


class OrchestrateResponse(BaseModel):
    """The answer to one turn."""

    call_identify_id: str
    intent_flow_id: int
    intent: str
    status: Status
    response: dict[str, Any]
    next_flow_id: int | None
    is_complete: bool
    session_summary: SessionSummary | None = None


class AgentError(Exception):
    """The agent answered, but not with something we can use."""


class SessionStore:
    """Sessions in Redis, one JSON document each, gone after an hour of silence."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client

    async def load(self, call_id: str) -> Session | None:
        document = await self._client.get(f"session:{call_id}")
        return Session.model_validate_json(document) if document else None

    async def save(self, session: Session) -> None:
        key = f"session:{session.call_identify_id}"
        await self._client.set(key, session.model_dump_json(), ex=SESSION_TTL_SECONDS)

    async def delete(self, call_id: str) -> bool:
        return bool(await self._client.delete(f"session:{call_id}"))

    async def ping(self) -> None:
        await self._client.ping()


class AgentClient:
    """Speaks A2A 0.3 `message/send` over one shared HTTP client."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http

    async def send(self, url: str, turn: OrchestrateRequest, stage: int) -> tuple[Status, dict[str, Any]]:
        """Call the agent; every failure becomes an `error` answer, so that the session goes on."""
        try:
            reply = await self._http.post(url, json=_rpc_request(turn, stage))
            reply.raise_for_status()
            return "success", _read_result(reply.json())
        except httpx.TimeoutException:
            return "error", {"error": f"agent timed out after {AGENT_TIMEOUT_SECONDS:g} s"}
        except httpx.HTTPStatusError as failure:
            return "error", {"error": f"agent answered HTTP {failure.response.status_code}"}
        except httpx.HTTPError as failure:
            return "error", {"error": f"agent unreachable: {type(failure).__name__}"}
        except AgentError as failure:
            return "error", {"error": str(failure)}
        except (ValueError, KeyError, TypeError, AttributeError):
            return "error", {"error": "agent answered something that is not A2A"}


def _rpc_request(turn: OrchestrateRequest, stage: int) -> dict[str, Any]:
    return {
        "jsonrpc": "2.0",
        "id": uuid4().hex,
        "method": "message/send",
        "params": {
            "message": {
                "kind": "message",
                "role": "user",
                "messageId": uuid4().hex,
                "contextId": turn.call_identify_id,
                "parts": [{"kind": "text", "text": turn.input_message}],
                "metadata": {
                    "account_id": turn.account_id,
                    "eci": turn.eci,
                    "flow_id": stage,
                    "flow_label": STAGE_LABELS[stage],
                },
            }
        },
    }


def _read_result(reply: dict[str, Any]) -> dict[str, Any]:
    if "error" in reply:
        raise AgentError(reply["error"].get("message", "agent error"))
    result = reply["result"]
    if result.get("kind") != "task":
        return _read_parts(result["parts"])
    state = result["status"]["state"]
    if state in ("failed", "rejected", "canceled"):
        raise AgentError(f"agent task {state}")
    artifacts = [part for artifact in result.get("artifacts") or [] for part in artifact["parts"]]
    said = (result["status"].get("message") or {}).get("parts", [])
    return _read_parts([*artifacts, *said])


def _read_parts(parts: list[dict[str, Any]]) -> dict[str, Any]:
    texts = [part["text"] for part in parts if part["kind"] == "text"]
    data = [part["data"] for part in parts if part["kind"] == "data"]
    files = [part["file"] for part in parts if part["kind"] == "file"]
    read: dict[str, Any] = {"text": "\n".join(texts), "data": data, "files": files}
    return {name: value for name, value in read.items() if value}


def _route(intent: str, stage: int) -> str:
    """The agent for this intent at this stage; 409 if the intent belongs to another stage."""
    legal = STAGE_INTENTS[stage]
    if intent in legal:
        return legal[intent]
    if intent in KNOWN_INTENTS:
        detail = f"intent {intent!r} is not allowed at flow {stage}; allowed: {sorted(legal)}"
        raise HTTPException(409, detail)
    return "fallback"


def _new_session(turn: OrchestrateRequest) -> Session:
    now = datetime.now(UTC)
    return Session(
        call_identify_id=turn.call_identify_id,
        account_id=turn.account_id,
        eci=turn.eci,
        created_at=now,
        updated_at=now,
    )


def _advance(session: Session) -> None:
    session.completed_flows.append(session.current_flow_id)
    if session.current_flow_id == LAST_STAGE:
        session.is_complete = True
    else:
        session.current_flow_id += 1


def _answer(session: Session, step: Step) -> OrchestrateResponse:
    return OrchestrateResponse(
        call_identify_id=session.call_identify_id,
        intent_flow_id=step.intent_flow_id,
        intent=step.intent,
        status=step.response_status,
        response=step.response_data,
        next_flow_id=None if session.is_complete else session.current_flow_id,
        is_complete=session.is_complete,
        session_summary=_summary(session) if session.is_complete else None,
    )


def _summary(session: Session) -> SessionSummary:
    return SessionSummary(
        call_identify_id=session.call_identify_id,
        account_id=session.account_id,
        completed_flows=session.completed_flows,
        total_steps=len(session.steps),
        steps=session.steps,
    )


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open the store and the HTTP client once, close both at the end."""
    # httpx keeps only 20 idle connections by default: above that, every request would open a new one.
    limits = httpx.Limits(max_connections=200, max_keepalive_connections=200)
    url = os.environ.get("REDIS_URL", "redis://localhost:6379")
    async with (
        redis.from_url(url, decode_responses=True) as client,
        httpx.AsyncClient(timeout=AGENT_TIMEOUT_SECONDS, limits=limits) as http,
    ):
        app.state.store = SessionStore(client)
        app.state.agents = AgentClient(http)
        yield


app = FastAPI(title="Hand-written orchestrator", lifespan=lifespan)


async def _store(request: Request) -> SessionStore:
    store: SessionStore = request.app.state.store
    return store


async def _agents(request: Request) -> AgentClient:
    agents: AgentClient = request.app.state.agents
    return agents


async def _session(call_id: str, store: Annotated[SessionStore, Depends(_store)]) -> Session:
    session = await store.load(call_id)
    if session is None:
        raise HTTPException(404, f"no session {call_id!r}")
    return session


Store = Annotated[SessionStore, Depends(_store)]
Agents = Annotated[AgentClient, Depends(_agents)]
Loaded = Annotated[Session, Depends(_session)]


@app.exception_handler(redis.RedisError)
async def store_unreachable(request: Request, failure: Exception) -> JSONResponse:
    """Say 503 when Redis does not answer."""
    return JSONResponse({"detail": "session store unavailable"}, 503, {"Retry-After": "1"})


@app.post("/orchestrate")
async def orchestrate(turn: OrchestrateRequest, store: Store, agents: Agents) -> OrchestrateResponse:
    """Run one turn: load, check, call the agent, record, save."""
    session = await store.load(turn.call_identify_id) or _new_session(turn)
    if session.is_complete:
        raise HTTPException(409, "the call is already complete")
    stage, intent = session.current_flow_id, turn.intent or "unknown"
    agent = _route(intent, stage)
    status, data = await agents.send(AGENT_URLS[agent], turn, stage)
    now = datetime.now(UTC)
    step = Step(
        intent_flow_id=stage,
        intent=intent,
        input_message=turn.input_message,
        a2a_agent_url=AGENT_URLS[agent],
        response_status=status,
        response_data=data,
        timestamp=now,
    )
    session.steps.append(step)
    session.updated_at = now
    if status == "success" and agent != "fallback":
        _advance(session)
    await store.save(session)
    return _answer(session, step)


@app.get("/session/{call_id}")
async def read_session(session: Loaded) -> Session:
    """The whole session document."""
    return session


@app.get("/session/{call_id}/steps")
async def read_steps(session: Loaded) -> list[Step]:
    """The audit trail, oldest first."""
    return session.steps


@app.delete("/session/{call_id}", status_code=204)
async def delete_session(call_id: str, store: Store) -> None:
    """End the call and forget it."""
    if not await store.delete(call_id):
        raise HTTPException(404, f"no session {call_id!r}")


@app.get("/ready")
async def ready(store: Store) -> dict[str, str]:
    """Able to serve: Redis answers."""
    await store.ping()
    return {"status": "ready"}


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(os.environ["PORT"]), log_level="warning", access_log=False)
