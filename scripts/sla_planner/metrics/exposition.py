"""Prometheus' text exposition format 0.0.4, read line by line: `name{label="value",…} value [timestamp]`, `#` lines are comments.

Every line is checked against the grammar (an HTML page must not pass for a server without traffic), but labels are decoded only for the names asked
for: a frontend exports some 700 lines of which the planner needs 120.
"""

from __future__ import annotations

import re
from collections.abc import Container
from typing import NamedTuple

from sla_planner.errors import UnreachableError

Labels = tuple[tuple[str, str], ...]

_NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
_LABEL = r'[a-zA-Z_][a-zA-Z0-9_]*[ \t]*=[ \t]*"(?:[^"\\]|\\.)*"'
_VALUE = r"[+-]?(?:[0-9]+\.?[0-9]*(?:[eE][+-]?[0-9]+)?|\.[0-9]+(?:[eE][+-]?[0-9]+)?|[nN]a[nN]|[iI]nf)"
_LINE = re.compile(rf"[ \t]*({_NAME})[ \t]*(?:\{{([^\n]*)\}}[ \t]*|[ \t])({_VALUE})(?:[ \t]+-?[0-9]+)?[ \t]*\r?", re.ASCII)
_LABELS = re.compile(rf"[ \t]*(?:{_LABEL}[ \t]*(?:,[ \t]*|(?=$)))*")
_ONE_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)[ \t]*=[ \t]*"((?:[^"\\]|\\.)*)"')
_ESCAPE = re.compile(r"\\(.)")


class Sample(NamedTuple):
    """`labels` are sorted by name."""

    name: str
    labels: Labels
    value: float


def parse(text: str, wanted: Container[str]) -> list[Sample]:
    """The samples whose name is in `wanted`, in the text's order. Raises UnreachableError when `text` is not metrics text."""
    samples = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line or line[0] == "#" or line.isspace():
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            raise _not_metrics(number, line)
        name, labels, value = match.groups()
        if name in wanted:
            try:
                samples.append(Sample(name, _labels(labels), float(value)))
            except ValueError:
                raise _not_metrics(number, line) from None
    return samples


def _labels(text: str | None) -> Labels:
    """Raises ValueError when `text` is not a label list."""
    if not text:
        return ()
    if _LABELS.fullmatch(text) is None:
        raise ValueError(text)
    return tuple(sorted((name, _unescaped(value)) for name, value in _ONE_LABEL.findall(text)))


def _unescaped(value: str) -> str:
    if "\\" not in value:
        return value
    return _ESCAPE.sub(lambda match: "\n" if match[1] == "n" else match[1], value)


def _not_metrics(number: int, line: str) -> UnreachableError:
    shown = line.strip()[:60]
    return UnreachableError(f"the answer is not metrics text: line {number} is {shown!r}", hint="check the URL: it must be the server's /metrics")
