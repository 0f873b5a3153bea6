"""What an agent's card says of how to reach it: fetched once, kept for a while, shared by concurrent calls.

An agent without a card speaks A2A 0.3 at its own address.
"""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import httpx
import orjson

from nodes.remote.dialect import Dialect
from nodes.remote.errors import Disconnected, ReplyTooLarge
from nodes.remote.wire import exchange

CARD_PATH = "/.well-known/agent-card.json"
_CARD_BYTES = 1_000_000
_KEEP_SECONDS = 300.0
_KEEP_MISSING_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where and how an agent is spoken to, and whether it can stream."""

    url: str
    dialect: Dialect
    streams: bool = False


class Cards:
    """The cards of all agents, by address.

    Args:
        client: the HTTP client to use.
        timeout: seconds one card may take.
    """

    def __init__(self, client: httpx.AsyncClient, timeout: float) -> None:
        self._client = client
        self._timeout = timeout
        self._kept: dict[str, tuple[float, Endpoint]] = {}
        self._fetching: dict[str, asyncio.Task[Endpoint]] = {}

    async def endpoint(self, agent: str, url: str) -> Endpoint:
        """Return where to speak to the agent at `url`.

        Raises:
            AgentError: if the agent cannot be reached at all.
        """
        kept = self._kept.get(url)
        if kept is not None and time.monotonic() < kept[0]:
            return kept[1]
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
            self._kept[url] = (0.0, self._kept[url][1])
        return await self.endpoint(agent, url)

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
        headers = {"accept": "application/json", "accept-encoding": "identity"}
        try:
            async with asyncio.timeout(self._timeout):
                status, content = await exchange(
                    self._client, agent, "GET", url + CARD_PATH, headers, None, _CARD_BYTES
                )
            card = orjson.loads(content) if status == 200 else None
        except (TimeoutError, orjson.JSONDecodeError, ReplyTooLarge, Disconnected):
            status, card = 0, None
        # In a thread: the first card imports a2a-sdk, a quarter of a second in which other calls want to go on.
        endpoint = await asyncio.to_thread(read_endpoint, card, url) if isinstance(card, dict) else None
        keep = _KEEP_SECONDS if endpoint else _KEEP_MISSING_SECONDS
        if endpoint is None and url in self._kept and not 200 <= status < 500:
            endpoint = self._kept[url][1]  # the card could not be had, which says nothing of what it said before
        self._kept[url] = (time.monotonic() + keep, endpoint or Endpoint(url, "0.3"))
        return self._kept[url][1]


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
