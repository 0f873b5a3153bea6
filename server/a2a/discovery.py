"""Where clients find the cards of a flow, and the address that the cards tell them."""

import hashlib
import re
from collections.abc import Awaitable, Callable
from email.utils import formatdate
from typing import Any

import orjson
from a2a.utils.errors import VersionNotSupportedError
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from server.a2a.cards import Cards, Version
from server.a2a.envelope import said_version, version_of
from server.listening import url_at

CARD = "/.well-known/agent-card.json"
OLD_CARD = "/.well-known/agent.json"
OLD_BASE = "/v0.3"

_HOST = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9._-]{0,252})|\[[0-9A-Fa-f:.]{2,45}\])(?::\d{1,5})?")
_HEADERS = {"cache-control": "public, max-age=300", "vary": "A2A-Version, Host"}

Endpoint = Callable[[Request], Awaitable[Response]]


def card_routes(cards: Cards, path: str) -> list[Route]:
    """Return the routes to the cards below `path`: of the version asked for, and of 0.3 where 0.3 clients look.

    Below the address of HTTP+JSON there is one too: whoever is given that address looks there.
    """
    return [
        *([Route(f"{path}/rest{CARD}", _showing(cards, None))] if cards.rest else []),
        Route(path + CARD, _showing(cards, None)),
        Route(path + OLD_CARD, _showing(cards, "0.3")),
        Route(path + OLD_BASE + CARD, _showing(cards, "0.3")),
        Route(path + OLD_BASE + OLD_CARD, _showing(cards, "0.3")),
    ]


def base_url(request: Request, public_url: str | None) -> str:
    """Return where the client reaches this service: as configured, else as the request says, without a last slash."""
    if public_url:
        return public_url.rstrip("/")
    root = str(request.scope.get("root_path", "")).rstrip("/")
    host = request.headers.get("host", "")
    if _HOST.fullmatch(host):
        return f"{request.scope.get('scheme', 'http')}://{host}{root}"
    server = request.scope.get("server") or ("localhost", 80)
    return url_at(server[0], server[1] or 80) + root


def _showing(cards: Cards, version: Version | None) -> Endpoint:
    async def show(request: Request) -> Response:
        wanted = version or _asked_for(request, cards.default_version)
        document = cards.document(base_url(request, cards.public_url), wanted)
        return _answer(request, document, formatdate(cards.since, usegmt=True))

    return show


def _asked_for(request: Request, default: Version) -> Version:
    said = said_version(request)
    try:
        return version_of(said) if said else default
    except VersionNotSupportedError:
        return default  # whoever speaks another version learns here which ones we speak


def _answer(request: Request, document: dict[str, Any], since: str) -> Response:
    body = orjson.dumps(document, option=orjson.OPT_SORT_KEYS)
    tag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    headers = {**_HEADERS, "etag": tag, "last-modified": since}
    if _known(request.headers.get("if-none-match", ""), tag):
        return Response(status_code=304, headers=headers)
    return Response(body, headers=headers, media_type="application/json")


def _known(if_none_match: str, tag: str) -> bool:
    tags = [sent.strip().removeprefix("W/") for sent in if_none_match.split(",")]
    return tag in tags or "*" in tags
