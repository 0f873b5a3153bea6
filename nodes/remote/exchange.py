"""One exchange over HTTP: what `wire` asks of a client, whichever library that is.

wire  -->  Http.open  -->  Answer: status, headers, the body piece by piece
             |- transport.py  aiohttp, as the service uses it
             `- plain.py      an httpx client, as notebooks bring it
"""

from collections.abc import Mapping
from typing import Protocol


class NotConnected(Exception):
    """No connection was made: nothing was sent."""


class Broken(Exception):
    """The connection broke, or what came over it was no HTTP; nobody knows what had arrived by then."""


class Answer(Protocol):
    """An answer whose head is there; its body is read piece by piece, and then it is closed."""

    @property
    def status(self) -> int:
        """The HTTP status code."""

    def header(self, name: str) -> str:
        """Return a header, by its name in small letters; empty if there is none."""

    async def piece(self) -> bytes:
        """Return what came of the body since, as it was sent (not decompressed); empty at its end.

        Raises:
            Broken: if the connection breaks before.
        """

    async def aclose(self) -> None:
        """Let go of the connection; close it unless the body was read to its end."""


class Http(Protocol):
    """Somebody who makes HTTP requests: without timeouts and cookies of its own, and following no redirects."""

    async def open(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None) -> Answer:
        """Send a request once, and return the answer as soon as its head is there.

        Args:
            method: GET or POST.
            url: an absolute address without credentials.
            headers: of printable ASCII.
            body: None for none.

        Raises:
            NotConnected: if no connection was made.
            Broken: for everything else that can go wrong.
        """

    async def aclose(self) -> None:
        """Close every connection."""
