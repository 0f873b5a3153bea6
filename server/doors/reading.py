"""Reading a request body: bounded in bytes, checked by its document, wrong in a way that says what to do."""

from typing import TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from server.problems import BodyTooLarge, NotJson, bad_input

Document = TypeVar("Document", bound=BaseModel)


async def read_document(request: Request, document: type[Document], max_bytes: int) -> Document:
    """Read and check the body.

    Raises:
        NotJson: if a web page sent it as something else than JSON.
        BodyTooLarge: if it is longer than `max_bytes`.
        BadInput: if it is not what `document` says.
    """
    kind = request.headers.get("content-type", "")
    if "origin" in request.headers and "json" not in kind:
        # Without this any web page could drive calls on the loopback of whoever looks at it.
        raise NotJson("send it with content-type: application/json")
    try:
        return document.model_validate_json(await _read(request, max_bytes))
    except ValidationError as error:
        raise bad_input(error) from error


async def _read(request: Request, max_bytes: int) -> bytes:
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > max_bytes:
            raise BodyTooLarge(f"the body is longer than {max_bytes:,} bytes; send less")
        chunks.append(chunk)
    return b"".join(chunks)
