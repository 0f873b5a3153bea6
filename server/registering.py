"""Reading what registers an agent: what it says of itself, or what its card says; and where it may say that it is.

Its address comes from somebody else, and we stand inside somebody's network: unless nobody but this machine can reach
the service, an address must be public or allowed (FLOWS_AGENTS_ALLOW).
"""

import asyncio
import re
from collections.abc import Mapping
from typing import Any, NoReturn
from urllib.parse import urlsplit

import aiohttp
import httpx
import orjson
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from nodes.outcome import now
from nodes.reaching.records import Registered
from nodes.remote.card import CARD_PATH, read_endpoint
from nodes.spec import Name, VersionName
from server.a2a.push_guard import MAX_URL_CHARACTERS, CheckedResolver, PushGuard, PushRefused
from server.listening import is_loopback
from server.problems import BadInput

SETTING = "FLOWS_AGENTS_ALLOW"
MOST_CARD_BYTES = 1_000_000
DEFAULT_TTL_SECONDS = 60
EVERYWHERE = ("0.0.0.0/0", "::/0")
ANYWHERE = PushGuard(EVERYWHERE, setting=SETTING)
"""Lets every address pass that is one: for a service that nobody but this machine can reach."""

_CARD_SECONDS, _LOOK_UP_SECONDS = 5.0, 2.0
_MOST_CAPABILITIES, _MOST_TYPES, _CAPABILITIES_BYTES = 100, 20, 16_000
_NOT_IN_URLS = re.compile(r"[\s\x00-\x1f\x7f?#]")
_NO_SCHEME = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:\d+)?(/.*)?", re.IGNORECASE)

_SEED: dict[str, JsonValue] = {
    "name": "text-processor-1",
    "agent_type": "text_processor",
    "capabilities": [{"name": "sentiment_analysis", "input_types": ["text"], "output_types": ["json"]}],
    "url": "http://text-processor-1:8001",
    "version": "v2",
    "ttl_seconds": 60,
}


class Capability(BaseModel):
    """Something that an agent can do."""

    model_config = ConfigDict(strict=True, extra="forbid")

    name: str = Field(min_length=1, max_length=200)
    input_types: list[str] = Field(default_factory=list, max_length=_MOST_TYPES)
    output_types: list[str] = Field(default_factory=list, max_length=_MOST_TYPES)


class RegisterRequest(BaseModel):
    """An agent that registers itself: either what it is, or where its card lies."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [_SEED, {"card_url": f"http://refund-agent:8003{CARD_PATH}"}]},
        strict=True,
        extra="forbid",
    )

    name: Name | None = Field(default=None, description="The instance; the same name again takes its place.")
    agent_type: Name | None = Field(
        default=None,
        description="What it is an instance of: the name or the `type` of an agent of a flow, or a name of its own "
        "(that of the instance, if a card is registered).",
    )
    capabilities: list[Capability] = Field(default_factory=list, max_length=_MOST_CAPABILITIES)
    url: str | None = Field(
        default=None,
        min_length=1,
        max_length=MAX_URL_CHARACTERS,
        description="Where it answers, without credentials.",
    )
    version: VersionName | None = Field(default=None, description="Which version of the agent it is.")
    card_url: str | None = Field(
        default=None,
        min_length=1,
        max_length=MAX_URL_CHARACTERS,
        description="In place of `name`, `url` and `capabilities`: where its card lies, which says them.",
    )
    ttl_seconds: int | None = Field(
        default=None,
        ge=5,
        le=86_400,
        description=f"How long it is kept without a heartbeat: {DEFAULT_TTL_SECONDS} by default, and for ever if it "
        "is registered by its card.",
    )

    @property
    def lives(self) -> int | None:
        """How long it is kept without a heartbeat; None for ever."""
        return self.ttl_seconds or (None if self.card_url else DEFAULT_TTL_SECONDS)


async def read_registration(sent: RegisterRequest, guard: PushGuard) -> Registered:
    """Return what is to be registered.

    Args:
        sent: what was sent.
        guard: says which addresses may be named.

    Raises:
        BadInput: says what is wrong, and what to do.
    """
    if sent.card_url is not None:
        instance = await _by_card(sent, sent.card_url, guard)
    else:
        instance = await _by_itself(sent, guard)
    if len(orjson.dumps(instance.capabilities)) > _CAPABILITIES_BYTES:  # all of them are kept by every replica
        field = "card_url" if sent.card_url else "capabilities"
        _refuse(field, f"its capabilities are longer than {_CAPABILITIES_BYTES:,} bytes; say less of each")
    return instance


def refuse_namesake(instance: Registered, there: Registered | None) -> None:
    """Refuse an instance that only its card names, if another one has that name: nobody asked to replace that.

    Args:
        instance: what is to be registered.
        there: what is registered by its name now.

    Raises:
        BadInput: if that is at another address.
    """
    if there is not None and there.url != instance.url:
        taken = f"its card names it {instance.name!r}, and the one at {there.url} is registered by that name"
        _refuse("name", f"{taken}; name it with `name`: otherwise, or the same to take that one's place")


async def _by_itself(sent: RegisterRequest, guard: PushGuard) -> Registered:
    missing = [name for name in ("name", "agent_type", "url") if getattr(sent, name) is None]
    if missing:
        raise BadInput([{"field": name, "message": f"it is missing; {_ADD[name]}"} for name in missing])
    url = await _checked("url", str(sent.url), guard)
    return _registered(sent, str(sent.name), url, dialect=None)


_ADD = {
    "name": "name the instance, or send `card_url` alone",
    "agent_type": "say of which agent it is an instance",
    "url": "say where the agent answers, as http://host:port, or send `card_url` alone",
}


def _registered(sent: RegisterRequest, name: str, url: str, *, dialect: str | None) -> Registered:
    return Registered(
        name=name,
        agent_type=sent.agent_type or name,
        url=url,
        version=sent.version,
        capabilities=tuple(capability.model_dump() for capability in sent.capabilities),
        dialect=dialect,
        registered_at=now(),
        expires_at=None,
        by_card=sent.card_url is not None,
        card_url=sent.card_url,
    )


async def _by_card(sent: RegisterRequest, card_url: str, guard: PushGuard) -> Registered:
    if both := [name for name in ("url", "capabilities") if getattr(sent, name)]:
        raise BadInput([{"field": name, "message": "the card says it; leave it out"} for name in both])
    checked = await _checked("card_url", card_url, guard)
    url = checked.removesuffix(CARD_PATH)
    if url == checked:
        _refuse("card_url", f"the card of an agent lies at {CARD_PATH} below its address; send that")
    card = await _fetched(checked, guard)
    # In a thread: the first card imports a2a-sdk, a quarter of a second in which calls want to go on.
    return await asyncio.to_thread(_said_by, card, sent, url)


def _said_by(card: Mapping[str, Any], sent: RegisterRequest, url: str) -> Registered:
    """Return what a card says, in bounds."""
    endpoint, parsed = read_endpoint(card, url), _parsed(card)
    if endpoint is None or parsed is None:
        _refuse("card_url", "what lies there is no agent card with a JSON-RPC interface; we speak A2A over JSON-RPC")
    for interface in parsed.supported_interfaces:
        if interface.protocol_binding.upper() == "JSONRPC" and not _same_host(interface.url, url):
            _refuse(
                "card_url",
                "the card says that its agent answers at another host than its own; mend the card, or register the "
                "agent itself, with its `url`",
            )
    told = {
        "name": sent.name or _name_in(parsed.name),
        "agent_type": sent.agent_type,
        "version": sent.version or parsed.version or None,
        "card_url": sent.card_url,
        "capabilities": [
            {
                "name": skill.id or skill.name,
                "input_types": list(skill.input_modes or parsed.default_input_modes),
                "output_types": list(skill.output_modes or parsed.default_output_modes),
            }
            for skill in parsed.skills
        ],
    }
    if told["name"] is None:
        _refuse("card_url", "the agent's name in its card makes no name here; send `name` with the `card_url`")
    try:
        read = RegisterRequest.model_validate(told)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()[:5])
        _refuse("card_url", f"what the card says cannot be registered: {wrong}; mend it, or register without it")
    return _registered(read, str(read.name), url, dialect=endpoint.dialect)


def _parsed(card: Mapping[str, Any]) -> Any:
    from a2a.client.card_resolver import parse_agent_card
    from google.protobuf.json_format import ParseError

    try:
        return parse_agent_card(orjson.loads(orjson.dumps(card)))
    except (ParseError, ValueError, TypeError, RecursionError):
        return None


def _name_in(said: str) -> str | None:
    """Return what a name in words makes here: `refund-agent` of `refund agent`."""
    letters = re.sub(r"[^A-Za-z0-9_-]+", "-", said)[:64].strip("-")
    return letters if re.match("[A-Za-z]", letters) else None


def _same_host(one: str, other: str) -> bool:
    try:
        hosts = [(urlsplit(url).hostname or "").rstrip(".") for url in (one, other)]
    except ValueError:
        return False
    return hosts[0] == hosts[1] or all(is_loopback(host) for host in hosts)


async def _checked(field: str, url: str, guard: PushGuard) -> str:
    """Return an address that may be named."""
    if _NOT_IN_URLS.search(url):
        _refuse(field, "it holds a space, a control character, a ? or a #; write it as http://host:port/path")
    if _NO_SCHEME.fullmatch(url):
        _refuse(field, f"it does not say how it is reached; write it as http://{url}")
    if "@" in url.partition("//")[2].partition("/")[0]:
        _refuse(field, "it holds credentials, which the registry shows to everybody who administers; leave them out")
    try:
        read = guard.checked(url)
        host, port = str(read.raw_host), int(read.port or 0)
        if guard is not ANYWHERE:
            async with asyncio.timeout(_LOOK_UP_SECONDS):
                await guard.addresses(host, port)
    except PushRefused as refusal:
        _refuse(field, f"agents cannot be registered there: {refusal}")
    except OSError:  # a TimeoutError is one too
        _refuse(field, f"the host {host!r} cannot be found; register the agent when it can be")
    return url.rstrip("/")


async def _fetched(url: str, guard: PushGuard) -> dict[str, Any]:
    try:
        async with asyncio.timeout(_CARD_SECONDS):
            content = await _got(url, guard)
        card = orjson.loads(content)
    except PushRefused as refusal:
        _refuse("card_url", f"cards cannot be had from there: {refusal}")
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        _refuse("card_url", f"the card cannot be had ({type(error).__name__}); start the agent, and register it then")
    except orjson.JSONDecodeError:
        _refuse("card_url", "what lies there is not JSON; send the URL of an agent card")
    if not isinstance(card, dict):
        _refuse("card_url", "what lies there is no agent card, which is a JSON object")
    return card


async def _got(url: str, guard: PushGuard) -> bytes:
    """Return what lies at a URL, whose addresses are looked at when the connection is made."""
    ssl = httpx.create_ssl_context(trust_env=False) if url.startswith("https:") else True
    connector = aiohttp.TCPConnector(resolver=CheckedResolver(guard), use_dns_cache=False, ssl=ssl)
    headers = {"accept": "application/json", "accept-encoding": "identity"}
    async with (
        aiohttp.ClientSession(
            connector=connector, cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False
        ) as session,
        session.get(url, headers=headers, allow_redirects=False) as response,
    ):
        if response.status != 200:
            _refuse("card_url", f"HTTP {response.status} came in place of the card; send the URL where it lies")
        content = b""
        async for chunk in response.content.iter_chunked(65_536):
            content += chunk
            if len(content) > MOST_CARD_BYTES:
                _refuse("card_url", f"the card is longer than {MOST_CARD_BYTES:,} bytes; make it shorter")
        return content


def _refuse(field: str, message: str) -> NoReturn:
    raise BadInput([{"field": field, "message": message}])
