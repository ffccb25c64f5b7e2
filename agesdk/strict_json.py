"""Strict JSON: text into plain values, and plain values into frozen dataclasses, with errors that name the
place.

``json.loads`` accepts duplicated keys, ``NaN`` and numbers that become infinite; a file that decides which
graphs are run should not. :func:`decode` builds dataclasses from their type hints, so a schema is written
once, as dataclasses, and an unknown key, a missing key or a wrong type is reported as
``components.denoise.inputs[2].dtype``.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import json
import math
import types
import typing
from typing import Any, Literal, NoReturn, TypeVar, Union

from agesdk.errors import BundleError

MAX_DEPTH = 32
"""Nesting beyond any real manifest; a deeper document is an attempt to exhaust the stack."""

INJECTED = {"injected": True}
"""Metadata of a dataclass field that takes the key under which the object stands in its parent."""

_T = TypeVar("_T")


class Invalid(BundleError):
    """A value breaks the schema at ``field`` (a JSON path; empty for the document itself)."""

    def __init__(self, field: str, problem: str, fix: str = "") -> None:
        super().__init__(f"{field or 'the document'} {problem}", fix=fix)
        self.field = field
        self.problem = problem


def parse(text: str) -> Any:
    """Parse JSON text; refuse duplicated keys, infinite or huge numbers, lone surrogates and deep nesting."""
    try:
        document = json.loads(
            text,
            object_pairs_hook=_object_without_duplicates,
            parse_constant=_refuse_constant,
            parse_float=_finite_float,
            parse_int=_bounded_int,
        )
    except Invalid:
        raise
    except RecursionError:
        raise Invalid("", f"is nested deeper than {MAX_DEPTH} levels") from None
    except ValueError as error:
        raise Invalid("", f"is not JSON: {error}") from None
    _check_depth_and_text(document)
    return document


def decode(kind: type[_T], value: Any, path: str = "") -> _T:
    """Build a value of the annotated type ``kind`` from parsed JSON, or raise Invalid with its path."""
    return typing.cast(_T, _decode(kind, value, path))


def encode(value: Any) -> Any:
    """The inverse of :func:`decode`: dataclasses and tuples into objects and lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: encode(getattr(value, field.name))
            for field in dataclasses.fields(value)
            if not field.metadata.get("injected")
        }
    if isinstance(value, dict):
        return {key: encode(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [encode(item) for item in value]
    return value


def _decode(kind: Any, value: Any, path: str, key: str | None = None) -> Any:
    if kind is Any:
        return value
    if dataclasses.is_dataclass(kind):
        return _decode_dataclass(typing.cast(type, kind), value, path, key)
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        if not isinstance(value, str) or value not in args:
            _fail(path, f"is {_show(value)}, expected one of {', '.join(args)}")
        return value
    if origin is tuple:
        return _decode_tuple(args, value, path)
    if origin is dict:
        if not isinstance(value, dict):
            _fail(path, f"is {_name(value)}, expected an object")
        return {name: _decode(args[1], item, _join(path, name), name) for name, item in value.items()}
    if origin in (Union, types.UnionType):
        return _decode_union(args, value, path)
    return _decode_scalar(kind, value, path)


def _decode_scalar(kind: Any, value: Any, path: str) -> Any:
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        _fail(path, f"is {_show(value)} ({_name(value)}), expected {_TYPE_NAMES[kind]}")
    return value


def _decode_tuple(args: tuple[Any, ...], value: Any, path: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        _fail(path, f"is {_name(value)}, expected an array")
    if len(args) == 2 and args[1] is Ellipsis:
        return tuple(_decode(args[0], item, f"{path}[{index}]") for index, item in enumerate(value))
    if len(value) != len(args):
        _fail(path, f"has {len(value)} entries, expected {len(args)}")
    return tuple(_decode(arg, item, f"{path}[{index}]") for index, (arg, item) in enumerate(zip(args, value)))


def _decode_union(args: tuple[Any, ...], value: Any, path: str) -> Any:
    if value is None and type(None) in args:
        return None
    members = [arg for arg in args if arg is not type(None)]
    if len(members) == 1:
        return _decode(members[0], value, path)
    if all(dataclasses.is_dataclass(member) for member in members):
        return _decode(_tagged_member(members, value, path), value, path)
    if type(value) not in members:
        _fail(path, f"is {_name(value)}, expected {' or '.join(_TYPE_NAMES[member] for member in members)}")
    return value


def _tagged_member(members: list[Any], value: Any, path: str) -> Any:
    if not isinstance(value, dict):
        _fail(path, f"is {_name(value)}, expected an object")
    by_tag = {typing.get_args(_hints(member)["type"])[0]: member for member in members}
    tag = value.get("type")
    if not isinstance(tag, str) or tag not in by_tag:
        _fail(_join(path, "type"), f"is {_show(tag)}, expected one of {', '.join(by_tag)}")
    return by_tag[tag]


def _decode_dataclass(kind: type, value: Any, path: str, key: str | None) -> Any:
    if not isinstance(value, dict):
        _fail(path, f"is {_name(value)}, expected an object")
    fields = {field.name: field for field in dataclasses.fields(kind)}
    injected = {name: key for name, field in fields.items() if field.metadata.get("injected")}
    known = [name for name in fields if name not in injected]
    for name in value:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"Did you mean {close[0]!r}?" if close else f"Known keys: {', '.join(known)}."
            raise Invalid(_join(path, name), "is not a known key", hint)
    for name in known:
        field = fields[name]
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in value:
            _fail(_join(path, name), "is missing")
    hints = _hints(kind)
    arguments = {name: _decode(hints[name], item, _join(path, name)) for name, item in value.items()}
    try:
        return kind(**arguments, **injected)
    except Invalid as error:
        where = f"{path}{error.field}" if error.field.startswith("[") else _join(path, error.field)
        raise Invalid(where, error.problem, error.fix) from None


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _join(path: str, name: str) -> str:
    return ".".join(part for part in (path, name) if part)


def _object_without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, value in pairs:
        if name in result:
            _fail(name, "is written twice in one object")
        result[name] = value
    return result


def _refuse_constant(text: str) -> NoReturn:
    _fail("", f"contains {text}, which is not JSON")


def _finite_float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        _fail("", f"contains the number {text[:40]}, which is too large")
    return number


def _bounded_int(text: str) -> int:
    if len(text) > 19:
        _fail("", f"contains the number {text[:40]}, which is too large")
    return int(text)


def _check_depth_and_text(document: Any) -> None:
    pending = [(document, 1)]
    while pending:
        value, depth = pending.pop()
        if depth > MAX_DEPTH:
            _fail("", f"is nested deeper than {MAX_DEPTH} levels")
        if isinstance(value, dict):
            pending.extend((item, depth + 1) for item in value.values())
            pending.extend((name, depth + 1) for name in value)
        elif isinstance(value, list):
            pending.extend((item, depth + 1) for item in value)
        elif isinstance(value, str):
            try:
                value.encode("utf-8")
            except UnicodeEncodeError:
                _fail("", "contains half of a surrogate pair")


_TYPE_NAMES: dict[Any, str] = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "a string",
    dict: "an object",
    list: "an array",
    type(None): "null",
}


def _name(value: Any) -> str:
    return _TYPE_NAMES[type(value)]


def _show(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _fail(path: str, problem: str) -> NoReturn:
    raise Invalid(path, problem)
