"""How commands reach a running service to administer it, and what they say if it does not let them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from server.commands.talking import NoService, address_of
from server.listening import is_loopback

_TOKEN = "FLOWS_ADMIN_TOKEN"  # noqa: S105  (the variable's name)


@contextmanager
def administering(url: str, *, option: str = "--url") -> Iterator[httpx.Client]:
    """Open a client that shows FLOWS_ADMIN_TOKEN, if there is one.

    Args:
        url: the service's address.
        option: what names it on the command line.

    Raises:
        NoService: if `url` is no address, no service answers there, or the token cannot be sent.
    """
    address = address_of(url)
    token = os.environ.get(_TOKEN)
    if token and not (token.isascii() and token.isprintable()):
        raise NoService(f"{_TOKEN} holds a character that no header can carry; use ASCII letters, digits and signs")
    headers = {"authorization": f"Bearer {token}"} if token else {}
    # A proxy that the environment names cannot reach a service on this machine's loopback.
    direct = is_loopback(address.host)
    try:
        with httpx.Client(base_url=address, headers=headers, timeout=60, trust_env=not direct) as client:
            yield client
    except httpx.HTTPError as error:
        why = str(error) or type(error).__name__
        raise NoService(f"no service answers at {url} ({why}); name it with {option}") from error
