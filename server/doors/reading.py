"""Reading what clients send: bounded in bytes, checked by its document, wrong in a way that says what to do; and
telling pages of another site, which a browser lets send, from clients that are meant to."""

from collections.abc import Mapping
from typing import TypeVar
from urllib.parse import urlsplit

from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from server.json_text import is_json
from server.problems import BodyTooLarge, NotJson, bad_input

Document = TypeVar("Document", bound=BaseModel)


async def read_document(request: Request, document: type[Document], max_bytes: int) -> Document:
    """Read and check the body.

    Raises:
        NotJson: if a web page sent it as something else than JSON.
        BodyTooLarge: if it is longer than `max_bytes`.
        BadInput: if it is not what `document` says.
    """
    return checked(document, await read_body(request, max_bytes))


async def read_body(request: Request, max_bytes: int) -> bytes:
    """Read the body.

    Raises:
        NotJson: if a web page sent it as something else than JSON.
        BodyTooLarge: if it is longer than `max_bytes`.
    """
    if "origin" in request.headers and not is_json(request.headers.get("content-type", "")):
        # Without this any web page could drive calls on the loopback of whoever looks at it; see also `hosts`.
        raise NotJson("send it with content-type: application/json")
    return await _read(request, max_bytes)


def checked(document: type[Document], text: bytes) -> Document:
    """Return the document that a JSON text is; raises `BadInput` if it is none."""
    try:
        return document.model_validate_json(text)
    except ValidationError as error:
        raise bad_input(error) from error


def is_foreign_page(headers: Mapping[str, str]) -> bool:
    """Tell whether a web page of another site sent this: a browser lets any page open a WebSocket, and names it."""
    if "origin" not in headers:
        return False
    try:
        site = urlsplit(headers["origin"]).netloc
    except ValueError:
        return True
    return site.casefold() != headers.get("host", "").casefold()


async def _read(request: Request, max_bytes: int) -> bytes:
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > max_bytes:
            raise too_large(max_bytes)
        chunks.append(chunk)
    return b"".join(chunks)


def too_large(max_bytes: int) -> BodyTooLarge:
    """Return what is wrong with a body that is longer than that."""
    return BodyTooLarge(f"the body is longer than {max_bytes:,} bytes; send less")
