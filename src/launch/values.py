"""What a setting may be: types with a range, groups of settings, and what is wrong with a value, in words."""

from __future__ import annotations

import difflib
import inspect
import re
import types
import typing
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt, MinLen, Predicate

_SOURCE = Path(__file__).resolve().parents[1]
CONF = next(folder for folder in (_SOURCE / "conf", _SOURCE.parent / "conf") if folder.is_dir())  # wheel, checkout
Node = dict[str, Any]
MISSING = "???"
_PRESENCE = (typing.Required, typing.NotRequired)

Count = Annotated[int, Ge(1)]
Whole = Annotated[int, Ge(0)]
Seed = Annotated[int, Ge(0), Le(2**32 - 1)]
Positive = Annotated[float, Gt(0)]
Weight = Annotated[float, Ge(0)]
Share = Annotated[float, Ge(0), Le(1)]
Dropout = Annotated[float, Ge(0), Lt(1)]
Cutoffs = Annotated[list[Count], MinLen(1)]
Choice = Weight | Annotated[list[Weight], MinLen(1)]  # of the second, validation users choose


def values_to_try(choice: float | list[float]) -> list[float]:
    """Return the values of a choice, ascending; none where it is 0, which changes nothing."""
    values = sorted({float(value) for value in (choice if isinstance(choice, list) else [choice])})
    return values if values[-1] > 0 else []


def is_name(text: str) -> bool:
    """Whether a text can name a folder that leads out of none."""
    return re.fullmatch(r"\w[\w.-]*", text) is not None


Name = Annotated[str, Predicate(is_name)]


def faults_of(path: str, value: Any, hint: Any) -> Iterator[str]:
    """Compare a value with a hint: plain types, with a range or not, and ``TypedDict`` for a group of settings.

    Args:
        path: Of the setting, for the message.
        value: As it is in the config; what a node with a ``_target_`` becomes is known only once it is built.
        hint: Of the parameter that takes it. Objects of other classes can come from a node only.
    """
    kinds = _kinds(hint)
    if (isinstance(value, dict) and "_target_" in value) or any(_takes_anything(kind) for kind in kinds):
        return
    if group := next((kind for kind in kinds if _holds_groups(kind) and isinstance(value, dict | list)), None):
        yield from _faults_within(path, value, group)
        return
    plain = [kind for kind in kinds if is_plain(kind)]
    if isinstance(value, dict | list) and any(map(_holds_nodes, kinds)):
        return  # the nodes in it are looked at by themselves
    meant = [kind for kind in plain if _fits(value, _bare(kind))]
    if not meant:
        yield f"{path}={value!r}: needed: {_in_words(_bare(hint))}{_advice(path, value, kinds)}"
    elif not any(_fits(value, kind) for kind in meant):
        words = " | ".join(map(_in_words, meant))
        yield f"{path}={value!r}: I need {'' if words.startswith('[') else 'a '}{words}."


def did_you_mean(key: str, known: Iterable[str]) -> str:
    """Return the known key that is most like another one, or all that are known."""
    close = difflib.get_close_matches(key, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else f"; there are: {', '.join(sorted(known))}"


def is_plain(hint: Any) -> bool:
    """Whether YAML can write every value of a type."""
    if hint in (int, float, bool, str, types.NoneType, Node):
        return True
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return is_plain(inner[0])
    if origin in (dict, Mapping):
        return inner[1] is Any or is_plain(inner[1])
    return origin is Literal or (
        origin in (typing.Union, types.UnionType, list, Sequence) and all(map(is_plain, inner))
    )


def _kinds(hint: Any) -> list[Any]:
    """Return the members of a union, or the hint itself."""
    is_union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return [kind for one in typing.get_args(hint) for kind in _kinds(one)] if is_union else [hint]


def _takes_anything(kind: Any) -> bool:
    return kind is Any or isinstance(kind, typing.TypeVar)


def _holds_nodes(kind: Any) -> bool:
    """Whether a type can be a collection of what nodes make, or of what only its owner knows."""
    is_one = inspect.isclass(kind) and typing.get_origin(kind) is None and not issubclass(kind, Collection)
    return not is_plain(kind) and (kind is object or not is_one)


def _holds_groups(kind: Any) -> bool:
    """Whether a type is a ``TypedDict``, or a list or mapping of some."""
    inner = typing.get_args(kind)
    is_container = typing.get_origin(kind) in (dict, Mapping, list, Sequence)
    return typing.is_typeddict(kind) or (is_container and _holds_groups(inner[-1]))


def _faults_within(path: str, value: Any, kind: Any) -> Iterator[str]:
    """Compare a group of settings, or a list or mapping of groups, entry by entry."""
    if not typing.is_typeddict(kind):
        wants_list = typing.get_origin(kind) in (list, Sequence)
        if isinstance(value, list) != wants_list:
            yield f"{path}: needed: {'a list' if wants_list else 'a mapping'} of groups of settings"
            return
        inner = typing.get_args(kind)[-1]
        entries = enumerate(value) if wants_list else value.items()
        for key, entry in entries:
            yield from faults_of(f"{path}[{key}]" if wants_list else f"{path}.{key}", entry, inner)
        return
    hints = typing.get_type_hints(kind, include_extras=True)
    if not isinstance(value, dict):
        yield f"{path}={value!r}: needed: a group of settings ({', '.join(hints)})"
        return
    for key in sorted(value.keys() - hints.keys(), key=str):
        yield f"{path}.{key}: no such setting{did_you_mean(str(key), hints)}"
    for key, hint in hints.items():
        if key in value and value[key] == MISSING:
            yield f"{path}.{key}: needs a value; type {path}.{key}=..."
        elif key in value:
            entry = typing.get_args(hint)[0] if typing.get_origin(hint) in _PRESENCE else hint
            yield from faults_of(f"{path}.{key}", value[key], entry)
        elif key in kind.__required_keys__:
            yield f"{path}.{key}: missing; type +{path}.{key}=..."


def _fits(value: Any, kind: Any) -> bool:
    from pydantic import ConfigDict, TypeAdapter, ValidationError

    try:
        TypeAdapter(kind, config=ConfigDict(allow_inf_nan=False)).validate_python(value, strict=True)
    except ValidationError:
        return False
    return True


def _bare(hint: Any) -> Any:
    """Return a hint without its ranges."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return _bare(inner[0])
    if origin in (typing.Union, types.UnionType):
        return typing.Union[tuple(map(_bare, inner))]  # noqa: UP007 - of a tuple made here
    return list[_bare(inner[0])] if origin in (list, Sequence) else hint  # type: ignore[misc]


def _in_words(hint: Any) -> str:
    if hint is types.NoneType:
        return "null"
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return _in_words(inner[0]) + _range(hint.__metadata__)
    if origin is Literal:
        return " | ".join("true | false" if value is True else str(value) for value in inner)
    if origin in (typing.Union, types.UnionType):
        return " | ".join(dict.fromkeys(map(_in_words, inner)))
    if origin in (list, Sequence):
        return f"[{_in_words(inner[0])}, ...]"
    if origin in (dict, Mapping) or typing.is_typeddict(hint):
        return "a group of settings"
    names = {int: "whole number", float: "number", bool: "true | false", str: "text"}
    return names.get(hint, "a group of settings with a _target_")


def _range(limits: Sequence[Any]) -> str:
    """Return a range in words, to stand behind what is in it."""
    low = next((limit for limit in limits if isinstance(limit, Ge | Gt)), None)
    high = next((limit for limit in limits if isinstance(limit, Le | Lt)), None)
    if any(isinstance(limit, Predicate) for limit in limits):
        return " of letters, digits, ., - and _"
    if any(isinstance(limit, MinLen) for limit in limits):
        return ", at least one"
    if low and high:
        first = "above" if isinstance(low, Gt) else "from"
        return f" {first} {_end(low)} to {'below ' * isinstance(high, Lt)}{_end(high)}"
    return f" above {_end(low)}" if isinstance(low, Gt) else f" of at least {_end(low)}"


def _end(limit: Any) -> Any:
    return next(getattr(limit, name) for name in ("ge", "gt", "le", "lt") if hasattr(limit, name))


def _advice(path: str, value: Any, kinds: Sequence[Any]) -> str:
    """Return what to type where it is known: numbers that are meant as text need quotes of their own."""
    return f"; type '{path}=\"{value}\"'" if str in map(_bare, kinds) and isinstance(value, int | float) else ""
