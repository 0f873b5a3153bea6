"""Which keys the language has at a place of a flow's file, read off its models."""

from collections.abc import Iterator
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel

from graph.document import Place
from graph.flow import Flow


def known_keys(place: Place) -> list[str]:
    """Return the keys that may stand beside the one at `place`."""
    around: list[Any] = [Flow]
    for part in place[:-1]:
        around = _inside(around, part)
    return [key for model in _models(around) for key in keys_of(model)]


def place_of(location: tuple[str | int, ...]) -> Place:
    """Return a place as pydantic locates it, without its marks for a key and for which of several forms it tried."""
    place: list[str | int] = []
    around: list[Any] = [Flow]
    for part in location:
        inside = _inside(around, part)
        if part == "[key]" or (not inside and len(around) > 1):
            continue
        place.append(part)
        around = inside
    return tuple(place)


def keys_of(model: type[BaseModel]) -> dict[str, Any]:
    """Return the keys of a model as files write them, each with what it takes."""
    return {field.alias or name: field.annotation for name, field in model.model_fields.items()}


def _inside(around: list[Any], part: str | int) -> list[Any]:
    """Return the forms of what stands at `part` in something of one of the forms `around`."""
    found: list[Any] = [form for model in _models(around) for key, form in keys_of(model).items() if key == part]
    found += [get_args(form)[1] for form in around if get_origin(form) is dict]
    found += [get_args(form)[0] for form in around if get_origin(form) is list and isinstance(part, int)]
    return [plain for form in found for plain in _forms(form)]


def _forms(form: Any) -> Iterator[Any]:
    """Yield the forms that something may have, `null` aside."""
    if get_origin(form) is Annotated:
        yield from _forms(get_args(form)[0])
    elif get_origin(form) in (Union, UnionType):
        for one in get_args(form):
            yield from _forms(one)
    elif form is not type(None):
        yield form


def _models(forms: list[Any]) -> list[type[BaseModel]]:
    return [form for form in forms if isinstance(form, type) and issubclass(form, BaseModel)]
