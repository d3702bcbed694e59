"""Dataclasses to and from TOML, strictly: a key that is not a field, a missing field or a wrong type is an InputError.

It knows types, not avatars. Field types it understands: bool, int, float, str, `Literal[...]` of strings,
`tuple[X, ...]`, `dict[str, Any]` (free-form), `dict[str, str]`, and other dataclasses. A field marked `NOT_STORED` is
left out.
"""

from __future__ import annotations

import dataclasses
import json
import re
import tomllib
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from engine.errors import InputError

T = TypeVar("T")

NOT_STORED = {"stored": False}  # as a field's metadata
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


def read(path: Path, kind: type[T]) -> T:
    """The dataclass `kind` from the TOML file at `path`. InputError names file, field, expected and got."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(str(path), "file", "a TOML file", "no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(str(path), "file", "a readable UTF-8 file", str(error)) from None
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(str(path), "syntax", "TOML", str(error)) from None
    return parse(str(path), kind, table)


def parse(where: str, kind: type[T], table: dict[str, Any], prefix: str = "") -> T:
    """The dataclass `kind` from a parsed `table`; `where` and `prefix` only name the place in errors."""
    hints = get_type_hints(kind)
    fields = {f.name: f for f in _stored(kind)}
    for key in table:
        if key not in fields:
            raise InputError(where, prefix + key, f"one of {', '.join(fields)}", "an unknown key")
    values = {}
    for name, field in fields.items():
        if name in table:
            values[name] = _value(where, prefix + name, hints[name], table[name])
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise InputError(where, prefix + name, _describe(hints[name]), "nothing (it is missing)")
    return kind(**values)


def dumps(value: Any) -> str:
    """The TOML text of a dataclass, plain values before tables. TypeError for what TOML cannot hold."""
    lines: list[str] = []
    _write_table(lines, _as_dict(value), ())
    return "\n".join(lines).strip() + "\n"


def _value(where: str, name: str, kind: Any, got: Any) -> Any:
    if kind is Any:
        return got
    if dataclasses.is_dataclass(kind) and isinstance(got, dict):
        return parse(where, kind, got, f"{name}.")  # type: ignore[arg-type]
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal and got in arguments and isinstance(got, str):
        return got
    if origin is tuple and isinstance(got, list):
        return tuple(_value(where, f"{name}[{i}]", arguments[0], item) for i, item in enumerate(got))
    if origin is dict and isinstance(got, dict):
        return {key: _value(where, f"{name}.{key}", arguments[1], item) for key, item in got.items()}
    if kind is float and type(got) in (int, float):
        return float(got)
    if kind in (bool, int, str) and type(got) is kind:
        return got
    raise InputError(where, name, _describe(kind), f"{type(got).__name__} {got!r}"[:80])


def _describe(kind: Any) -> str:
    names = {
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        str: "a string",
    }
    if kind in names:
        return names[kind]
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(repr(a) for a in get_args(kind))
    return "a list" if get_origin(kind) is tuple else "a table"


def _as_dict(value: Any) -> dict[str, Any]:
    if dataclasses.is_dataclass(value):
        return {f.name: getattr(value, f.name) for f in _stored(value)}
    return dict(value)


def _stored(kind: Any) -> list[dataclasses.Field[Any]]:
    return [f for f in dataclasses.fields(kind) if f.metadata.get("stored", True)]


def _is_table(value: Any) -> bool:
    return isinstance(value, dict) or dataclasses.is_dataclass(value)


def _write_table(lines: list[str], table: dict[str, Any], path: tuple[str, ...]) -> None:
    plain = {key: value for key, value in table.items() if not _is_table(value)}
    if path and (plain or not table):
        lines += ["", f"[{'.'.join(_key(part) for part in path)}]"]
    lines += [f"{_key(key)} = {_inline(value)}" for key, value in plain.items()]
    for key, value in table.items():
        if _is_table(value):
            _write_table(lines, _as_dict(value), (*path, key))


def _key(key: str) -> str:
    return key if _BARE_KEY.fullmatch(key) else _string(key)


def _string(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _inline(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_inline(item) for item in value) + "]"
    if _is_table(value):
        return "{ " + ", ".join(f"{_key(k)} = {_inline(v)}" for k, v in _as_dict(value).items()) + " }"
    raise TypeError(f"TOML holds no {type(value).__name__}: {value!r}")
