"""Reading numbers out of what engines print: log lines with colours, prefixes and thousands separators, and labels on a page of metrics."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

_COLOUR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_RANK = re.compile(r"(?<![A-Za-z])(?<!MOE_)DP(?:_?RANK)?[ _=]?(\d+)")
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"')


def plain(log: str) -> str:
    """Without colours."""
    return _COLOUR.sub("", log)


def whole(text: str) -> int:
    """`2,042,016` -> 2042016."""
    return int(text.replace(",", "").replace("_", ""))


def last_per_rank(log: str, pattern: re.Pattern[str]) -> dict[str, re.Match[str]]:
    """The last line that `pattern` is found in (a log may hold several starts), by data-parallel rank: `3` for `DP3` in the prefix, '' without."""
    found = {}
    for line in plain(log).splitlines():
        if match := pattern.search(line):
            rank = _RANK.search(line[: match.start()])
            found[rank[1] if rank else ""] = match
    return found


def over_ranks(per_rank: Mapping[str, int], ranks: int) -> int:
    """Of all `ranks` together; those that said nothing hold as much as the smallest of those that did."""
    known = list(per_rank.values())[-ranks:]
    return sum(known) + (ranks - len(known)) * min(known)


def samples(page: str, name: str) -> Iterator[tuple[dict[str, str], float]]:
    """Labels and value of each sample called `name` on a page of metrics."""
    for line in page.splitlines():
        if line.startswith(name) and line[len(name) : len(name) + 1] in ("{", " "):
            head, _, value = line.rpartition("}") if "{" in line else line.partition(" ")
            try:
                yield dict(_LABEL.findall(head)), float(value.split()[0])
            except (ValueError, IndexError):
                continue
