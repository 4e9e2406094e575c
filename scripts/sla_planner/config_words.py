"""Types and values of settings in words: for help texts, references and error messages. Passwords in URLs never leave here unmasked."""

from __future__ import annotations

import re
import reprlib
import types
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

_PASSWORD = re.compile(r"(://[^:/@]*):.*@")  # greedy: rather too much than half a password


def shown(value: Any) -> str:
    """A value as the user would write it; passwords in URLs are masked."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, tuple):
        return f"[{', '.join(shown(inner) for inner in value)}]"
    text = "none" if value is None else masked(str(value))
    return text if text.isprintable() else ascii(text)  # a control character would break the line, or the terminal


def quoted(value: Any) -> str:
    """The value in one short line; a list or mapping from a file may be huge."""
    text = repr(value) if isinstance(value, str) and len(value) <= 200 else reprlib.repr(value)
    return masked(text)


def masked(text: str) -> str:
    return _PASSWORD.sub(r"\1:***@", text)


def bare_type(kind: Any) -> Any:
    """The type without `Annotated` and `| None`."""
    if get_origin(kind) is Annotated:
        return bare_type(get_args(kind)[0])
    if get_origin(kind) in (Union, types.UnionType):
        return bare_type(next(inner for inner in get_args(kind) if inner is not type(None)))
    return kind


def _choices(kind: Any) -> tuple[str, ...]:
    bare = bare_type(kind)
    if get_origin(bare) is Literal:
        return tuple(str(choice) for choice in get_args(bare))
    return tuple(member.value for member in bare) if isinstance(bare, type) and issubclass(bare, Enum) else ()


def metavar_of(kind: Any) -> str:
    if choices := _choices(kind):
        return f"[{'|'.join(choices)}]"
    return {int: "N", float: "X", Path: "PATH"}.get(bare_type(kind), "TEXT")


def allowed_of(kind: Any) -> str:
    if choices := _choices(kind):
        return f"one of {', '.join(choices)}"
    words = {bool: "true or false", int: "a whole number", float: "a number", Path: "a path", str: "text"}
    bounds = [f"{sign} {limit:g}" for sign, limit in _bounds(kind)]
    return " ".join([words.get(bare_type(kind), "a list"), " and ".join(bounds)]).strip()


def _bounds(kind: Any) -> Iterator[tuple[str, float]]:
    """The limits that pydantic's constraints (`Field(gt=0)` ...) put on a number."""
    if get_origin(kind) is Annotated:
        for constraint in get_args(kind)[1:]:
            for part in (constraint, *getattr(constraint, "metadata", ())):
                for name, sign in (("gt", ">"), ("ge", ">="), ("lt", "<"), ("le", "<=")):
                    if (limit := getattr(part, name, None)) is not None:
                        yield sign, limit
        yield from _bounds(get_args(kind)[0])
    elif get_origin(kind) in (Union, types.UnionType):
        for inner in get_args(kind):
            yield from _bounds(inner)
