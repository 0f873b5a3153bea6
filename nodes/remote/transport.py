"""HTTP requests over one aiohttp session, fit to be shared by all calls of all tenants."""

import io
from collections import OrderedDict
from collections.abc import Callable, Mapping

import aiohttp
import httpx
from aiohttp.abc import AbstractResolver
from yarl import URL

from nodes.remote.exchange import Broken, NotConnected

_IDLE_SECONDS = 30.0
_MOST_ADDRESSES = 1_024
_LONG = 2**20
_NO_TIMEOUT = aiohttp.ClientTimeout()
_NEVER_SENT = (aiohttp.ClientConnectorError, aiohttp.InvalidURL, UnicodeError)  # the last one: no name of a host


class AgentTransport:
    """Makes requests.

    Args:
        connections: how many may be open at a time.
        resolver: makes who looks up hosts, in the event loop; aiohttp's own if None.
    """

    def __init__(self, *, connections: int, resolver: Callable[[], AbstractResolver] | None = None) -> None:
        self._connections = connections
        self._resolver = resolver
        self._tls = httpx.create_ssl_context(trust_env=False)
        self._session: aiohttp.ClientSession | None = None
        self._addresses: OrderedDict[str, URL] = OrderedDict()
        self._closed = False

    async def open(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None) -> "AgentAnswer":
        """Send a request; see `Http`."""
        try:
            address = self._addresses.get(url) or self._read(url)
            # aiohttp warns of long texts, which it would hand to the kernel in one piece.
            data = body if body is None or len(body) < _LONG else io.BytesIO(body)
            session = self._opened()
            return AgentAnswer(
                await session.request(method, address, headers=headers, data=data, allow_redirects=False)
            )
        except _NEVER_SENT as error:
            raise NotConnected(str(error)) from error
        except aiohttp.ClientError as error:
            raise Broken(str(error)) from error

    async def aclose(self) -> None:
        """Close every connection."""
        self._closed = True
        if self._session is not None:
            await self._session.close()

    def _read(self, url: str) -> URL:
        try:
            address = URL(url)
        except ValueError as error:
            raise aiohttp.InvalidURL(url) from error
        if address.scheme not in ("http", "https"):
            raise aiohttp.InvalidURL(url)
        self._addresses[url] = address
        if len(self._addresses) > _MOST_ADDRESSES:
            self._addresses.popitem(last=False)
        return address

    def _opened(self) -> aiohttp.ClientSession:
        """Return the session, opened on first use and hence in the running event loop."""
        if self._closed:
            raise RuntimeError("the client is closed")
        if self._session is None:
            connector = aiohttp.TCPConnector(
                limit=self._connections,
                keepalive_timeout=_IDLE_SECONDS,
                ssl=self._tls,
                resolver=self._resolver() if self._resolver else None,
            )
            self._session = aiohttp.ClientSession(
                connector=connector,
                # A jar would hand the session that an agent opened for one caller to the next.
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                timeout=_NO_TIMEOUT,
            )
        return self._session


class AgentAnswer:
    """An answer as aiohttp reads it; see `Answer`."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.status = response.status
        self._response = response

    def header(self, name: str) -> str:
        """Return a header; empty if there is none."""
        text = self._response.headers.get(name, "")
        return text if text.isascii() else _readable(text.encode("utf-8", "surrogateescape"))

    async def piece(self) -> bytes:
        """Return the next piece of the body; empty at its end."""
        try:
            return await self._response.content.readany()
        except aiohttp.ClientError as error:
            raise Broken(str(error)) from error

    async def aclose(self) -> None:
        """Let go of the connection; close it unless the whole answer is there."""
        self._response.close()


def _readable(header: bytes) -> str:
    """Return a header that is not ASCII as httpx reads it: as UTF-8 if it is that."""
    try:
        return header.decode()
    except UnicodeDecodeError:
        return header.decode("latin-1")
