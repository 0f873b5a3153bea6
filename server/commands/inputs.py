"""The values that a run is given for its flow's `inputs`, as they are written on a command line."""

import difflib
import json
from collections.abc import Sequence
from typing import Any

from graph.flow import Flow


class BadInput(Exception):
    """What was given does not fit the flow's `inputs`."""

    exit_code = 2


def inputs_of(flow: Flow, inputs: Sequence[str], inputs_json: str | None) -> dict[str, Any]:
    """Return the values for the flow's `inputs`: what is JSON as such, all else as text.

    Raises:
        BadInput: if one is not `name=value`, is unknown, or is missing.
    """
    values = _object(inputs_json) if inputs_json is not None else {}
    for written in inputs:
        name, sign, value = written.partition("=")
        if not sign:
            raise BadInput(f"{written!r} is no input; write --input name=value")
        values[name] = _worth(value)
    for name in values:
        if name not in flow.inputs:
            close = difflib.get_close_matches(name, flow.inputs, n=1)
            known = f"its inputs: {', '.join(flow.inputs)}" if flow.inputs else "it has none"
            remedy = f"did you mean {close[0]!r}?" if close else known
            raise BadInput(f"flow {flow.flow!r} has no input {name!r}; {remedy}")
    missing = [name for name in flow.inputs if name not in values]
    if missing:
        raise BadInput(f"flow {flow.flow!r} needs {', '.join(missing)}; add --input {missing[0]}=…")
    return values


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"--input-json is no JSON ({error}); write an object: '{{\"name\": value}}'") from error
    if not isinstance(value, dict):
        raise BadInput("--input-json is no object; write '{\"name\": value}'")
    return value


def _worth(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
