"""Who may administer: anybody on this machine, as long as nobody else can reach the service; else who has a token."""

import secrets

from starlette.requests import Request

from server.doors.reading import is_foreign_page
from server.listening import is_loopback
from server.problems import NotAdmin
from server.runtime import Runtime

_SCHEME = "bearer "
_OF_PROXIES = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via")
"""Headers of requests that come from elsewhere, though a proxy on this machine hands them on."""


def may_administer(request: Request) -> bool:
    """Tell whether a request comes from somebody who may administer the service.

    Without FLOWS_ADMIN_TOKEN that is whoever can reach it, if it listens on a loopback address and has no public one.
    The address that the request came in at counts as well: `uvicorn server.asgi:app --host …` does not tell us.
    """
    runtime: Runtime = request.app.state.runtime
    settings = runtime.settings
    if is_foreign_page(request.headers):
        return False
    if settings.admin_token is None:
        return serves_this_machine_alone(request)
    said = request.headers.get("authorization", "")
    token = said[len(_SCHEME) :].strip() if said[: len(_SCHEME)].lower() == _SCHEME else ""
    return secrets.compare_digest(token.encode(), settings.admin_token.get_secret_value().encode())


def serves_this_machine_alone(request: Request) -> bool:
    """Tell whether nobody but this machine can reach the service, as far as the settings and a request tell."""
    runtime: Runtime = request.app.state.runtime
    settings = runtime.settings
    return is_loopback(settings.host) and settings.public_url is None and _is_from_here(request)


def _is_from_here(request: Request) -> bool:
    address = (request.scope.get("server") or ("",))[0]
    return is_loopback(address) and not any(name in request.headers for name in _OF_PROXIES)


def must_administer(request: Request) -> None:
    """Refuse whoever may not administer the service; a dependency of doors.

    Raises:
        NotAdmin: says what to do.
    """
    if may_administer(request):
        return
    runtime: Runtime = request.app.state.runtime
    if is_foreign_page(request.headers):
        raise NotAdmin("a web page of another site may not do this; use a program, or `flows reload`")
    if runtime.settings.admin_token is None:
        raise NotAdmin(
            "others than this machine can reach the service, so this needs a token: set FLOWS_ADMIN_TOKEN, and send "
            "it as `Authorization: Bearer`"
        )
    raise NotAdmin("send the FLOWS_ADMIN_TOKEN of the service as `Authorization: Bearer`")
