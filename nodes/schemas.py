"""JSON Schemas that a flow's file brings: whether one is sound, and in what a value does not fit it.

Nothing is fetched for a `$ref`, and patterns take linear time, or the answer to a question could hold up every call.
"""

from collections.abc import Iterator, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

import cel

if TYPE_CHECKING:
    from jsonschema import ValidationError

_LONGEST_PATTERN = 200
_MATCHES = cel.compile("text.matches(pattern)")


def wrong_with(schema: Mapping[str, Any]) -> str | None:
    """Tell what is wrong with a schema; None if it is sound."""
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError

    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        return f"{'.'.join(map(str, error.absolute_path)) or 'it'}: {error.message[:200]}"
    except RecursionError:
        return "it is nested too deeply"
    return next(_unfit(schema), None)


def misfit(value: Any, schema: Mapping[str, Any]) -> str | None:
    """Tell in what a value does not fit a schema; None if it fits."""
    from jsonschema.exceptions import best_match
    from referencing import Registry
    from referencing.exceptions import Unresolvable

    try:
        error = best_match(_validator()(schema, registry=Registry()).iter_errors(value))
    except Unresolvable as unresolvable:
        return f"the schema's $ref {getattr(unresolvable, 'ref', '')!r} leads nowhere"
    except RecursionError:
        return "it is nested too deeply"
    if error is None:
        return None
    where = "".join(f"[{part!r}]" for part in error.absolute_path)
    return f"{where or 'the answer'}: {error.message[:300]}"


def _unfit(schema: Any) -> Iterator[str]:
    """Find references to other documents, and patterns that cannot be read in linear time."""
    if isinstance(schema, Mapping):
        for key in ("$ref", "$dynamicRef"):
            if isinstance(schema.get(key), str) and not schema[key].startswith("#"):
                yield f"{key} {schema[key][:100]!r} leads to another document, which is not fetched"
        patterns = [schema["pattern"]] if isinstance(schema.get("pattern"), str) else []
        if isinstance(schema.get("patternProperties"), Mapping):
            patterns += schema["patternProperties"]
        yield from (f"the pattern {pattern[:100]!r} {wrong}" for pattern in patterns if (wrong := _unread(pattern)))
    children = schema.values() if isinstance(schema, Mapping) else schema if isinstance(schema, list) else ()
    for child in children:
        yield from _unfit(child)


def _unread(pattern: str) -> str | None:
    if len(pattern) > _LONGEST_PATTERN:
        return f"has more than {_LONGEST_PATTERN} characters"
    try:
        _found(pattern, "")
    except RuntimeError:
        return "cannot be read in linear time (no look-around, no back-references)"
    return None


def _found(pattern: str, text: str) -> bool:
    """Tell whether a pattern occurs in a text, by the regular expressions of CEL's library, which are RE2's."""
    return bool(_MATCHES.execute({"text": text, "pattern": pattern}))


def _pattern(validator: Any, pattern: str, value: Any, schema: Any) -> Iterator["ValidationError"]:
    if validator.is_type(value, "string") and not _found(pattern, value):
        from jsonschema import ValidationError

        yield ValidationError(f"{value[:100]!r} does not match {pattern!r}")


def _pattern_properties(validator: Any, patterns: Any, value: Any, schema: Any) -> Iterator["ValidationError"]:
    if not validator.is_type(value, "object"):
        return
    for pattern, wanted in patterns.items():
        for name, one in value.items():
            if _found(pattern, name):
                yield from validator.descend(one, wanted, path=name, schema_path=pattern)


@cache
def _validator() -> Any:
    """Return what checks values. The library is imported only where a flow has a schema: `flows check` is to answer
    at once."""
    from jsonschema import Draft202012Validator
    from jsonschema.validators import extend

    return extend(Draft202012Validator, {"pattern": _pattern, "patternProperties": _pattern_properties})
