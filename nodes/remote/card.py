"""What an agent's card says of how to reach it: fetched once, kept for a while, shared by concurrent calls.

An agent without a card speaks A2A 0.3 at its own address.
"""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import orjson

from nodes.remote.dialect import Dialect
from nodes.remote.errors import AgentError, Disconnected, ReplyTooLarge, Unreachable
from nodes.remote.exchange import Http
from nodes.remote.wire import exchange

CARD_PATH = "/.well-known/agent-card.json"
PROBE_TIMEOUT = 2.0
"""Seconds within which an agent that is well sends its card, or says that it has none."""
_CARD_BYTES = 1_000_000
_KEEP_SECONDS = 300.0
_KEEP_MISSING_SECONDS = 30.0
_MOST_KEPT = 10_000
_HEADERS = {"accept": "application/json", "accept-encoding": "identity"}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where and how an agent is spoken to, and whether it can stream."""

    url: str
    dialect: Dialect
    streams: bool = False


@dataclass(frozen=True, slots=True)
class _Kept:
    """What a card said."""

    until: float
    """When it is asked for again, on the monotonic clock."""
    endpoint: Endpoint
    text: int
    """The hash of its text."""


class Cards:
    """The cards of all agents, by address.

    Args:
        http: makes the requests.
        timeout: seconds one card may take.
    """

    def __init__(self, http: Http, timeout: float) -> None:
        self._http = http
        self._timeout = timeout
        self._kept: dict[str, _Kept] = {}
        self._fetching: dict[str, asyncio.Task[Endpoint]] = {}

    async def endpoint(self, agent: str, url: str) -> Endpoint:
        """Return where to speak to the agent at `url`.

        Raises:
            AgentError: if the agent cannot be reached at all.
        """
        kept = self._kept.get(url)
        if kept is not None and time.monotonic() < kept.until:
            return kept.endpoint
        if url not in self._fetching:
            self._fetching[url] = asyncio.create_task(self._fetch(agent, url))
            self._fetching[url].add_done_callback(lambda task: self._fetched(url, task))
        # Shielded: one impatient call must not take the card away from the others that wait for it.
        return await asyncio.shield(self._fetching[url])

    async def endpoint_again(self, agent: str, url: str) -> Endpoint:
        """Fetch the card anew, as the agent may have been replaced, and return where to speak to it.

        Raises:
            AgentError: if the agent cannot be reached at all.
        """
        if url in self._kept:
            self._kept[url] = replace(self._kept[url], until=0.0)
        return await self.endpoint(agent, url)

    async def probe(self, url: str) -> str | None:
        """Ask the agent at `url` for its card; return why that shows that it is not well, None if it does not.

        Whoever answers is well, unless with an error of the server: an agent need not have a card. If it was read
        before, calls go by what it says now.
        """
        try:
            async with asyncio.timeout(PROBE_TIMEOUT):
                status = await self._look(url)
        except TimeoutError:
            return f"it did not answer within {PROBE_TIMEOUT:g} s"
        except ReplyTooLarge:
            return None
        except Unreachable:
            return "it cannot be reached"
        except AgentError:
            return "the connection broke before its answer was complete"
        return f"it answered HTTP {status}" if status >= 500 else None

    async def _look(self, url: str) -> int:
        headers = {**_HEADERS, "connection": "close"}  # of the many that are looked at, most are seldom asked more
        status, content = await exchange(self._http, url, "GET", url + CARD_PATH, headers, None, _CARD_BYTES)
        kept = self._kept.get(url)
        if status == 200 and kept is not None:
            same = kept.endpoint if hash(content) == kept.text else await _understood(_json(content), url)
            if same is not None:
                self._keep(url, same, content)
        return status

    async def aclose(self) -> None:
        """Stop fetching."""
        for task in list(self._fetching.values()):
            task.cancel()
        await asyncio.gather(*self._fetching.values(), return_exceptions=True)

    def _fetched(self, url: str, task: asyncio.Task[Endpoint]) -> None:
        self._fetching.pop(url, None)
        if not task.cancelled():
            task.exception()  # retrieved here, so that a fetch nobody waits for any more is not reported as lost

    async def _fetch(self, agent: str, url: str) -> Endpoint:
        status, content = await self._had(agent, url)
        card = _json(content) if status == 200 else None
        endpoint = await _understood(card, url)
        keep = _KEEP_SECONDS if endpoint else _KEEP_MISSING_SECONDS
        was_had = 200 <= status < 500 and not (status == 200 and card is None)
        if endpoint is None and url in self._kept and not was_had:
            endpoint = self._kept[url].endpoint  # which says nothing of what it said before
        return self._keep(url, endpoint or Endpoint(url, "0.3"), content, keep)

    async def _had(self, agent: str, url: str) -> tuple[int, bytes]:
        """Return the status of the answer to a request for the card, 0 if none came, and its text."""
        try:
            async with asyncio.timeout(self._timeout):
                return await exchange(self._http, agent, "GET", url + CARD_PATH, _HEADERS, None, _CARD_BYTES)
        except (TimeoutError, ReplyTooLarge, Disconnected):
            return 0, b""

    def _keep(self, url: str, endpoint: Endpoint, text: bytes, seconds: float = _KEEP_SECONDS) -> Endpoint:
        self._kept[url] = _Kept(time.monotonic() + seconds, endpoint, hash(text))
        if len(self._kept) > _MOST_KEPT:  # instances come and go, each with an address of its own
            del self._kept[next(iter(self._kept))]
        return endpoint


def _json(text: bytes) -> object:
    """Return what JSON says; None if it is none."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return None


async def _understood(card: object, url: str) -> Endpoint | None:
    # In a thread: the first card imports a2a-sdk, a quarter of a second in which other calls want to go on.
    return await asyncio.to_thread(read_endpoint, card, url) if isinstance(card, dict) else None


def read_endpoint(card: Mapping[str, Any], url: str) -> Endpoint | None:
    """Pick the newest JSON-RPC interface that the card offers, or none.

    The card decides version and path; scheme, host and port stay those of `url`: addresses come from flows, and what
    runs behind a proxy or a mapped port seldom knows its own.
    """
    from a2a.client.card_resolver import parse_agent_card
    from google.protobuf.json_format import ParseError

    try:
        parsed = parse_agent_card(orjson.loads(orjson.dumps(card)))
        offered = [
            Endpoint(
                _at_host(interface.url, url), _dialect(interface.protocol_version), parsed.capabilities.streaming
            )
            for interface in parsed.supported_interfaces
            if interface.protocol_binding.upper() == "JSONRPC"
        ]
    except (ParseError, ValueError, TypeError, RecursionError):  # the last two: nested too deeply
        return None
    return max(offered, key=lambda endpoint: endpoint.dialect, default=None)


def _dialect(version: str) -> Dialect:
    return "0.3" if version.startswith("0.") else "1.0"


def _at_host(offered: str, configured: str) -> str:
    there, here = urlsplit(offered), urlsplit(configured)
    return urlunsplit((here.scheme, here.netloc, there.path, there.query, ""))
