"""Logs: readable lines on a terminal, one JSON object a line elsewhere, always on standard error."""

import logging
import sys

import orjson
import structlog

from server.settings import LogLevel


def configure_logs(level: LogLevel) -> None:
    """Send every log line of this process to standard error, from `level` on."""
    # Our own handler has logged it by then, as one line of the same form as all others.
    logging.getLogger("uvicorn.error").addFilter(
        lambda line: "Exception in ASGI application" not in line.getMessage()
    )
    terminal = sys.stderr.isatty()
    render = (
        structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)  # others print local values
        if terminal
        else structlog.processors.JSONRenderer(
            serializer=lambda value, **_: orjson.dumps(value, default=repr).decode()
        )
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *([] if terminal else [structlog.processors.format_exc_info]),
            render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
