"""JSON over HTTP: telling it by its content type, and writing it so that every client reads the same."""

_ENDS = str.maketrans({"\x85": "\\u0085", "\u2028": "\\u2028", "\u2029": "\\u2029"})


def is_json(content_type: str) -> bool:
    """Tell whether a body is said to be JSON. No page in a browser can say so to another site unasked."""
    essence = content_type.partition(";")[0].strip().lower()
    return essence == "application/json" or (essence.startswith("application/") and essence.endswith("+json"))


def one_line(text: str) -> str:
    """Return the JSON without the line ends of Unicode: in server-sent events they are none, but many a client that
    splits text at every line end breaks an event there."""
    return text.translate(_ENDS)
