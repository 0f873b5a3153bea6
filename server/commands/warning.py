"""What one should know before a service starts: settings that nobody reads, and a door without a lock."""

from collections.abc import Iterator, Mapping
from difflib import get_close_matches

import structlog

from server.listening import is_loopback
from server.settings import Settings

log = structlog.get_logger()


def warn(settings: Settings, environ: Mapping[str, str]) -> None:
    """Log a warning for everything that is allowed but probably not meant."""
    for name, meant in unknown_settings(environ):
        log.warning("unknown setting, ignored", variable=name, **({"did_you_mean": meant} if meant else {}))
    if not is_loopback(settings.host):
        log.warning("there is no authentication yet: whoever reaches the host has every call", host=settings.host)


def unknown_settings(environ: Mapping[str, str]) -> Iterator[tuple[str, str | None]]:
    """Yield each `FLOWS_…` variable that is no setting, and the one that was probably meant."""
    fields = Settings.model_fields.items()
    known = {name.upper(): str(field.validation_alias or f"FLOWS_{name.upper()}") for name, field in fields}
    for name in environ:
        written = name.upper()  # as pydantic-settings does: the case of a variable does not matter
        if written.startswith("FLOWS_") and written not in known.values():
            close = get_close_matches(written.removeprefix("FLOWS_"), known, 1)
            yield name, known[close[0]] if close else None
