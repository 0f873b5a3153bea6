"""HTTP requests over an httpx client: the one that somebody brings, or one of our own for scripts and notebooks."""

from collections.abc import Mapping
from http.cookiejar import CookieJar, DefaultCookiePolicy

import httpx

from nodes.remote.exchange import Broken, NotConnected

_NEVER_SENT = (httpx.ConnectError, httpx.UnsupportedProtocol, httpx.InvalidURL)


class Plain:
    """Makes requests with an httpx client, which is closed with it.

    Args:
        client: by default one without timeouts and cookies (calls share it), which also keeps no connections: those
            belong to an event loop, and a script may run several.
    """

    def __init__(self, client: httpx.AsyncClient | None = None) -> None:
        self._client = client or _client()

    async def open(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None) -> "PlainAnswer":
        """Send a request; see `Http`."""
        try:
            request = self._client.build_request(method, url, headers=dict(headers), content=body)
            return PlainAnswer(await self._client.send(request, stream=True, follow_redirects=False))
        except _NEVER_SENT as error:
            raise NotConnected(str(error)) from error
        except httpx.HTTPError as error:
            raise Broken(str(error)) from error

    async def aclose(self) -> None:
        """Close the client."""
        await self._client.aclose()


class PlainAnswer:
    """An answer that httpx reads; see `Answer`."""

    def __init__(self, response: httpx.Response) -> None:
        self._response = response
        self._pieces = response.aiter_raw()

    @property
    def status(self) -> int:
        """The HTTP status code."""
        return self._response.status_code

    def header(self, name: str) -> str:
        """Return a header; empty if there is none."""
        return str(self._response.headers.get(name, ""))

    async def piece(self) -> bytes:
        """Return the next piece of the body; empty at its end."""
        try:
            return await anext(self._pieces, b"")
        except httpx.HTTPError as error:
            raise Broken(str(error)) from error

    async def aclose(self) -> None:
        """Let go of the connection."""
        try:
            await self._response.aclose()
        except httpx.HTTPError as error:
            raise Broken(str(error)) from error


def _client() -> httpx.AsyncClient:
    cookies = CookieJar(DefaultCookiePolicy(allowed_domains=()))
    limits = httpx.Limits(max_keepalive_connections=0)
    return httpx.AsyncClient(limits=limits, cookies=cookies, trust_env=False, timeout=None)  # noqa: S113
