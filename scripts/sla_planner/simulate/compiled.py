"""Machine code where numba is installed, the same Python everywhere else.

The functions that are compiled use floats, integers, arrays and square roots only, and no reordering of sums is allowed (no fast-math), so both ways
compute the same bits on every machine.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

F = TypeVar("F", bound=Callable[..., Any])

_numba: Any
try:
    import numba as _numba
except ImportError:  # the extra `fast` is not installed
    _numba = None

COMPILES = _numba is not None


def compiled(function: F, inline: str = "never") -> F:
    """`function` as machine code if possible. Kept on disk between runs where a folder for that can be written."""
    if _numba is None:
        return function
    try:
        return cast(F, _numba.njit(function, cache=True, inline=inline))
    except RuntimeError:  # no folder to keep it in: read-only file system
        return cast(F, _numba.njit(function, inline=inline))


def inlined(function: F) -> F:
    """The same, and part of every compiled function that calls it: handing an argument of many arrays over takes longer than most of what is done."""
    return compiled(function, "always")
