"""Whom a service on a loopback address answers: clients that call it by a name of this machine, or by its public one.

A web page may have its own name lead to 127.0.0.1 (DNS rebinding); to the browser the service then is the page's own
site, and it may send anything there. What gives it away is the name, in `Host`.
"""

from functools import lru_cache
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from server.listening import is_loopback
from server.problems import Row, respond

_FOREIGN = Row(403, "foreign-host", "The service is not called by that name")
_REMEDY = (
    "it answers on this machine only, as localhost or 127.0.0.1; if others are to reach it, through a proxy perhaps, "
    "set FLOWS_PUBLIC_URL to the address they use"
)


class KnownHosts:
    """Refuses requests that came in on a loopback address under a name that leads there for other reasons.

    Args:
        app: answers all others.
        public_url: where clients reach the service, if that is configured.
    """

    def __init__(self, app: ASGIApp, public_url: str | None) -> None:
        self._app = app
        self._public = urlsplit(public_url).hostname if public_url else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket") and not self._is_known(scope):
            await respond(_FOREIGN, _REMEDY)(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _is_known(self, scope: Scope) -> bool:
        address = (scope.get("server") or ("",))[0]
        said = Headers(scope=scope).get("host")
        if said is None or not is_loopback(address):  # every browser says the host
            return True
        host = _name_in(said)
        return host is not None and (host == self._public or is_loopback(host))


@lru_cache(maxsize=256)
def _name_in(host: str) -> str | None:
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None
