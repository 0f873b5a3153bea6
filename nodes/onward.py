"""Where a run goes from a stage: its ways, its repetitions, and the stages it skips. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from nodes.conditions import ExpressionFailed, holds
from nodes.spec import END, Place, Way

Places = Mapping[str, Place]


@dataclass(frozen=True, slots=True)
class Onward:
    """Where a run goes."""

    stage: str | None
    """The next stage; None where the run is complete."""
    repeats: bool = False
    """Whether it is the same stage once more, because `repeat` says so."""
    skipped: tuple[str, ...] = ()
    """The stages passed over on the way, in order."""
    counted: tuple[str, ...] = ()
    """The ways taken that are open only so often, by name."""


def onward(places: Places, place: Place, known: Mapping[str, Any], passes: int, taken: Mapping[str, int]) -> Onward:
    """Return where a run goes after a stage was answered.

    Args:
        places: the flow's.
        place: where the run is.
        known: what conditions may read, the answer among it.
        passes: how often the stage was passed in a row, this time included.
        taken: how often each way was taken that is open only so often, by name.

    Raises:
        ExpressionFailed: if a condition cannot be worked out.
    """
    repeat = place.stage.repeat
    if repeat and passes < repeat.at_most and not holds(repeat.until, known):
        return Onward(place.name, repeats=True)
    return _by(_way(place, known, taken), places, known, taken)


def after_error(places: Places, place: Place, known: Mapping[str, Any], taken: Mapping[str, int]) -> Onward | None:
    """Return where a run goes after its agent failed; None if it stays or ends there. Raises `ExpressionFailed`."""
    if place.stage.on_error == "continue":
        return _by(_way(place, known, taken), places, known, taken)
    way = _open(place, place.stage.detours, known, taken)
    return _by(way, places, known, taken) if way else None


@dataclass(frozen=True, slots=True)
class _Taken:
    """A way taken."""

    stage: str | None
    counted: tuple[str, ...] = ()


def _by(way: _Taken, places: Places, known: Mapping[str, Any], taken: Mapping[str, int]) -> Onward:
    """Return where a run arrives by a way: at its stage, or past all that are to be skipped."""
    skipped: list[str] = []
    stage = way.stage
    while stage is not None and (when := places[stage].stage.when) and not holds(when, known):
        if stage in skipped:
            raise ExpressionFailed(f"every stage from {stage!r} around to itself is to be skipped")
        skipped.append(stage)
        stage = _past(places[stage])
    return Onward(stage, skipped=tuple(skipped), counted=way.counted)


def _way(place: Place, known: Mapping[str, Any], taken: Mapping[str, int]) -> _Taken:
    """Return the first open way after an answer."""
    return _open(place, place.stage.next, known, taken) or _Taken(place.following, _counted(place, place.following))


def _open(place: Place, ways: Iterable[Way], known: Mapping[str, Any], taken: Mapping[str, int]) -> _Taken | None:
    """Return the first open way."""
    for way in ways:
        if way.at_most is not None and taken.get(f"{place.name} {way.goto}", 0) >= way.at_most:
            continue
        if way.when is None or holds(way.when, known):
            return _Taken(None if way.goto == END else way.goto, _counted(place, way.goto))
    return None


def _counted(place: Place, goto: str | None) -> tuple[str, ...]:
    """Return the name of the way from one stage to another if any way there is open only so often.

    All ways between the same two stages are counted together, whichever was taken.
    """
    goto = goto or END
    bounded = any(way.at_most for way in (*place.stage.next, *place.stage.detours) if way.goto == goto)
    return (f"{place.name} {goto}",) if bounded else ()


def _past(place: Place) -> str | None:
    """Return where a skipped stage leads: by the way that is always open, as there is no answer to choose by."""
    always = [way.goto for way in place.stage.next if way.when is None and way.at_most is None]
    goto = always[0] if always else place.following
    return None if goto == END else goto
