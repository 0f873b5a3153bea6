"""httpx over aiohttp, fit to be shared by all calls of all tenants: no cookies kept, no errors but httpx's own."""

from collections.abc import Callable

import aiohttp
import httpx
from aiohttp.abc import AbstractResolver
from httpx_aiohttp import AiohttpTransport

_IDLE_SECONDS = 30.0


class AgentTransport(AiohttpTransport):
    """Adds to `httpx-aiohttp` what it leaves open.

    Args:
        connections: how many may be open at a time.
        resolver: makes who looks up hosts, in the event loop; aiohttp's own if None.
    """

    def __init__(self, *, connections: int, resolver: Callable[[], AbstractResolver] | None = None) -> None:
        super().__init__(trust_env=False)
        self._connections = connections
        self._resolver = resolver

    def get_client(self) -> aiohttp.ClientSession:
        """Open the session, on first use and hence in the running event loop."""
        connector = aiohttp.TCPConnector(
            limit=self._connections,
            keepalive_timeout=_IDLE_SECONDS,
            ssl=self.ssl_context,
            resolver=self._resolver() if self._resolver else None,
        )
        # A jar would hand the session that an agent opened for one caller to the next.
        return aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send the request.

        Raises:
            httpx.ConnectError: if no connection was made.
            httpx.TransportError: for everything else.
        """
        try:
            return await super().handle_async_request(request)
        except httpx.ConnectTimeout as error:
            # httpx-aiohttp 0.2 calls every trouble with a connection so, also one that broke after we had written.
            never_made = isinstance(error.__cause__, aiohttp.ClientConnectorError)
            kind = httpx.ConnectError if never_made else httpx.ReadError
            raise kind(str(error), request=request) from error
        except aiohttp.ClientError as error:
            raise httpx.RemoteProtocolError(str(error), request=request) from error
