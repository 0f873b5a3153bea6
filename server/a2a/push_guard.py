"""Which addresses a client may have us notify: the guard against server-side request forgery (SSRF).

A webhook's URL comes from whoever may send us a message, and we stand inside somebody's network. So a URL is looked
at when it is configured, and the addresses of its host again each time a connection is made: what is checked then
is what is connected to, whatever a name server says a moment later.
"""

import asyncio
import re
import socket
from collections.abc import Awaitable, Callable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

import structlog
from a2a.utils.errors import InvalidParamsError
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

MAX_URL_CHARACTERS = 2_000

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
Resolve = Callable[[str, int], Awaitable[list[str]]]
"""Looks up a host and port; raises OSError if that fails."""

_LOOK_UP_SECONDS = 2.0
_NAME = re.compile(r"[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*\.?")
_NUMERIC = re.compile(r"(.*\.)?([0-9]+|0x[0-9a-f]*)\.?")
"""What C libraries read as an IPv4 address, in any of its old forms (`2130706433`, `0x7f.1`, `127.1`)."""

_NOT_PUBLIC: tuple[Network, ...] = tuple(
    ip_network(network)
    for network in (
        # The special-purpose addresses (RFC 6890); each Python's `ipaddress` knows another part of them.
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
        *("192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15"),
        *("198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/3"),
        *("::/3", "4000::/2", "8000::/1"),  # all but 2000::/3, in which every public address lies
        *("2001::/23", "2001:db8::/32", "3fff::/20"),
        "168.63.129.16/32",  # public in form, but in Azure it is the host under the machine
    )
)
_LOOPBACK = ip_address("127.0.0.1")  # `localhost` and all below it, whatever a name server says (RFC 6761, 6.3)
_NAT64 = ip_network("64:ff9b::/96")

log = structlog.get_logger()


class PushRefused(Exception):
    """We do not send notifications there; the message says why, without the URL.

    Attributes:
        facts: what else the operator may know, but not the client.
    """

    def __init__(self, reason: str, **facts: str) -> None:
        super().__init__(reason)
        self.facts = facts


async def look_up(host: str, port: int) -> list[str]:
    """Return the addresses of a host as this machine knows them.

    Raises:
        OSError: if it cannot be found.
    """
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError as error:
        raise OSError(f"{host!r} is no name of a host") from error
    return list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))


class PushGuard:
    """Tells which webhooks, or other addresses that somebody named, may be reached.

    Args:
        allow: hosts, addresses and networks that may be reached although they are not public.
        resolve: how hosts are looked up.
        setting: what says `allow`, for messages.

    Raises:
        ValueError: naming the entry of `allow` that is none of them.
    """

    def __init__(
        self, allow: Sequence[str] = (), *, resolve: Resolve = look_up, setting: str = "FLOWS_PUSH_ALLOW"
    ) -> None:
        entries = [_read_entry(entry, setting) for entry in allow]
        self._setting = setting
        self._hosts = frozenset(entry for entry in entries if isinstance(entry, str))
        self._networks = [entry for entry in entries if not isinstance(entry, str)]
        self._resolve = resolve

    async def allowed(self, url: str) -> bool:
        """Return True if a client may name this URL; the SDK's push URL validator, but that it says why not.

        A host that cannot be found now is let through: its addresses are checked when a notification is sent.

        Raises:
            InvalidParamsError: if it may not; where the name of a host leads is not in it.
        """
        try:
            host, port = _host_and_port(self.checked(url))
            async with asyncio.timeout(_LOOK_UP_SECONDS):
                await self.addresses(host, port)
        except PushRefused as refusal:
            log.info("push webhook refused", reason=str(refusal), **refusal.facts)
            raise InvalidParamsError(f"notifications cannot be sent to this URL: {refusal}") from refusal
        except OSError as error:  # a TimeoutError is one too
            log.info("push webhook not found yet", host=host, reason=str(error))
        return True

    def checked(self, url: str) -> URL:
        """Return the URL if nothing in it is against it; the addresses of a named host are yet to be looked up.

        Raises:
            PushRefused: otherwise.
        """
        if len(url) > MAX_URL_CHARACTERS:
            raise PushRefused(f"its URL is longer than {MAX_URL_CHARACTERS} characters")
        try:
            read = URL(url)
        except ValueError as error:
            raise PushRefused("it is no URL") from error
        if read.scheme not in ("http", "https"):
            raise PushRefused(f"its scheme is {read.scheme!r}; only http and https are reached")
        if read.user is not None or read.password is not None:
            raise PushRefused("its URL holds credentials; the configuration has a place of its own for them")
        host, _ = _host_and_port(read)
        address = _literal(host)
        if address is not None:
            self._check(host, address)
        return read

    async def addresses(self, host: str, port: int) -> list[Address]:
        """Return the addresses of a host, if every one of them may be reached.

        Raises:
            PushRefused: if one may not.
            OSError: if the host cannot be found.
        """
        found = [ip_address(address) for address in await self._resolve(host, port)]
        for address in found:
            self._check(host, address)
        return found

    def _check(self, host: str, address: Address) -> None:
        if host.rstrip(".") in self._hosts:
            return
        meant = _meant(address)
        if any(meant in network for network in self._networks):
            return
        if any(meant in network for network in _NOT_PUBLIC):
            remedy = f"only the service's {self._setting} can allow it"
            raise PushRefused(f"the address of {host!r} is not public; {remedy}", address=str(address))


class CheckedResolver(AbstractResolver):
    """Hands aiohttp only addresses that the guard let pass, so that it connects to nothing else."""

    def __init__(self, guard: PushGuard) -> None:
        self._guard = guard

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Look up a host; raises what `PushGuard.addresses` raises."""
        return [
            ResolveResult(
                hostname=host,
                host=str(address),
                port=port,
                family=socket.AF_INET if address.version == 4 else socket.AF_INET6,
                proto=socket.IPPROTO_TCP,
                flags=socket.AI_NUMERICHOST,
            )
            for address in await self._guard.addresses(host, port)
        ]

    async def close(self) -> None:
        """Do nothing: it holds nothing open."""


def _read_entry(entry: str, setting: str) -> str | Network:
    plain = entry.strip().casefold().rstrip(".")
    try:
        return ip_network(plain)
    except ValueError as error:
        if _NAME.fullmatch(plain) and not _NUMERIC.fullmatch(plain):
            return plain
        raise ValueError(f"{setting}: {entry!r} is no host, address or network: {error}") from error


def _host_and_port(url: URL) -> tuple[str, int]:
    host, port = url.raw_host, url.port
    if not host or not port:
        raise PushRefused("its URL names no host, or no port that can be reached")
    return host, port


def _literal(host: str) -> Address | None:
    """Return the address that a host surely means, or None for a name that is to be looked up.

    Raises:
        PushRefused: if it is neither; one reader would take it for this address, another for that.
    """
    try:
        return ip_address(host)
    except ValueError as error:
        if _NUMERIC.fullmatch(host) or not _NAME.fullmatch(host):
            raise PushRefused(f"{host!r} is neither a name nor an address in its usual form") from error
        return _LOOPBACK if host.rstrip(".").rpartition(".")[2] == "localhost" else None


def _meant(address: Address) -> Address:
    """Return the IPv4 address that an IPv6 one only wraps: mapped, 6to4 or NAT64."""
    if isinstance(address, IPv4Address):
        return address
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or address
