"""How a mapping that somebody wrote is read: every value through its name, so that what nobody asked for is an unknown key in the end.

    Findings   all faults and notes of one request
    Section    one mapping: typed values by name, in snake_case and camelCase where the reference takes both

A value that is wrong is a fault and reads as None; reading goes on, so that one look gives all faults. `null` is the same as not there.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from typing import Any, TypeVar

from sla_planner.request.spec import Fault, Object

MOST_SECONDS = 0.5  # nobody promises half a millisecond; somebody writes half a second

_IN_SECONDS = re.compile(r"([0-9]*\.?[0-9]+) ?s")
_IN_MS = re.compile(r"([0-9]*\.?[0-9]+) ?ms")
_CAPITAL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_LONGEST_SHOWN = 60
_LARGEST = 2.0**63  # of a number in Kubernetes
_V = TypeVar("_V")


class Findings:
    """Faults and notes, in the order in which they are found. A value has one fault: the first that is found, others may come of it."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []
        self.notes: list[str] = []

    def fault(self, path: str, message: str, hint: str) -> None:
        if all(each.path != path for each in self.faults):
            self.faults.append(Fault(path, message, hint))

    def note(self, path: str, words: str) -> None:
        self.notes.append(f"{path}: {words}")

    def agreed(self, *given: tuple[str, _V | None]) -> _V | None:
        """The one value of several places (path, value) for the same thing; a fault where they differ."""
        there = [(path, value) for path, value in given if value is not None]
        for path, value in there[1:]:
            if value != there[0][1]:
                self.fault(path, f"{shown(value)}, but {there[0][0]} is {shown(there[0][1])}", "both mean the same thing: keep one of them")
        return there[0][1] if there else None


class Section:
    """A mapping at `path`. `both`: names are asked for in snake_case and may be written in camelCase as well. Not a mapping: a fault, then empty."""

    def __init__(self, values: Any, path: str, findings: Findings, *, both: bool = False) -> None:
        self.path, self.findings, self.both = path, findings, both
        self.values: Object = values if isinstance(values, Mapping) else {}
        if values is not None and not isinstance(values, Mapping):
            findings.fault(path, f"must be a mapping, not {shown(values)}", "write its keys below it, indented")
        self._known: dict[str, None] = {}
        self._opened: list[Section] = []

    def __contains__(self, name: str) -> bool:
        return self._spelling(name) in self.values

    def path_of(self, name: str) -> str:
        """Of a value, as it is spelled here."""
        return f"{self.path}.{self._spelling(name)}"

    def fault(self, name: str, message: str, hint: str) -> None:
        """About one of the values."""
        self.findings.fault(self.path_of(name), message, hint)

    def value(self, name: str, *older: str) -> Any:
        """Whatever is there, None if nothing is. `older`: further names for the same."""
        found = []
        for each in (name, *older):
            for spelling in self._spellings(each):
                self._known[spelling] = None
                found.append((f"{self.path}.{spelling}", self.values.get(spelling)))
        return self.findings.agreed(*found)

    def text(self, name: str, *older: str) -> str | None:
        """A text that is not empty."""
        value = self.value(name, *older)
        if value is None or (isinstance(value, str) and value.strip()):
            return value
        hint = "write a text" if isinstance(value, str) else f"put it in quotes: {shown(str(value))}"
        self.fault(name, f"must be a text, not {shown(value)}", hint)
        return None

    def one_of(self, name: str, allowed: tuple[str, ...]) -> str | None:
        value = self.value(name)
        if value is None or (isinstance(value, str) and value in allowed):
            return value
        self.fault(name, f"{shown(value)} is none of {', '.join(allowed)}", meant(str(value), allowed))
        return None

    def flag(self, name: str) -> bool | None:
        value = self.value(name)
        if value is None or isinstance(value, bool):
            return value
        self.fault(name, f"must be true or false, not {shown(value)}", "write true or false, without quotes")
        return None

    def count(self, name: str, *older: str, least: int = 1) -> int | None:
        """A whole number."""
        value = self.value(name, *older)
        if value is None or (is_whole(value) and value >= least):
            return None if value is None else int(value)
        self.fault(name, f"must be a whole number, {least} or more, not {shown(value)}", _without_quotes(value, f"write a number from {least}"))
        return None

    def positive(self, name: str, *older: str) -> float | None:
        """A number above 0."""
        value = self.value(name, *older)
        if value is None or (is_number(value) and value > 0):
            return None if value is None else float(value)
        self.fault(name, f"must be a number above 0, not {shown(value)}", _without_quotes(value, "write a positive number"))
        return None

    def milliseconds(self, name: str) -> float | None:
        """A promised latency. What looks like seconds is a fault."""
        value = self.value(name)
        if value is None:
            return None
        if is_number(value) and value > MOST_SECONDS:
            return float(value)
        message, hint = f"must be a number of milliseconds above 0, not {shown(value)}", "write a positive number of milliseconds"
        if is_number(value) and value > 0:
            message, hint = f"{value:g} ms looks like seconds", f"write {value * 1000:g} for {value:g} s"
        elif isinstance(value, str) and (seconds := _IN_SECONDS.fullmatch(value)):
            hint = f"write {float(seconds[1]) * 1000:g}: a plain number, in milliseconds"
        elif isinstance(value, str) and (number := _IN_MS.fullmatch(value)):
            hint = f"write {number[1]}: a plain number, in milliseconds"
        else:
            hint = _without_quotes(value, hint)
        self.fault(name, message, hint)
        return None

    def mapping(self, name: str) -> Object | None:
        """A mapping that is handed on as it is."""
        value = self.value(name)
        if value is None or isinstance(value, Mapping):
            return value
        self.fault(name, f"must be a mapping, not {shown(value)}", "write its keys below it, indented")
        return None

    def section(self, name: str) -> Section:
        """A mapping whose keys are known; empty where it is not there. Its unknown keys are found with those of this one."""
        opened = Section(self.value(name), self.path_of(name), self.findings, both=self.both)
        self._opened.append(opened)
        return opened

    def no_effect(self, name: str, why: str) -> None:
        """A value that the reference knows and that changes nothing here. Off (false) is the same as not there."""
        if (value := self.value(name)) is not None and value is not False:
            self.findings.note(self.path_of(name), f"{shown(value)} has no effect: {why}")

    def refused(self, name: str, why: str, hint: str) -> None:
        """A value that the reference knows, that would change the result, and that cannot be followed here. Off is the same as not there."""
        if (value := self.value(name)) is not None and value is not False:
            self.fault(name, f"{shown(value)} cannot be followed: {why}", hint)

    def required(self, *names: str, why: str) -> None:
        for name in names:
            if self.value(name) is None:
                self.fault(name, f"is missing: {why}", f"add {name}")

    def finish(self) -> None:
        """Every key that was not asked for is a fault, also in the sections that were opened."""
        for key in self.values:
            if key not in self._known:
                self.findings.fault(f"{self.path}.{key}", f"there is no such key, its value is {shown(self.values[key])}", meant(key, self._names()))
        for opened in self._opened:
            opened.finish()

    def _names(self) -> list[str]:
        """As they are offered: in the spelling that is used here."""
        if not self.both:
            return list(self._known)
        camel = any(_CAPITAL.search(str(key)) for key in self.values)
        return [name for name in self._known if name in (camel_case(name) if camel else snake_case(name))]

    def _spellings(self, name: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys((name, camel_case(name)))) if self.both else (name,)

    def _spelling(self, name: str) -> str:
        return next((each for each in self._spellings(name) if self.values.get(each) is not None), name)


def camel_case(name: str) -> str:
    """use_ai_configurator -> useAiConfigurator."""
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)


def snake_case(name: str) -> str:
    """useAiConfigurator -> use_ai_configurator."""
    return _CAPITAL.sub("_", name).lower()


def is_number(value: Any) -> bool:
    """True is none, and neither are NaN and the infinite."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -_LARGEST < value < _LARGEST


def is_whole(value: Any) -> bool:
    """3.0 is."""
    return is_number(value) and value == int(value)


def shown(value: Any) -> str:
    """On one line, and not too long."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[: _LONGEST_SHOWN - 3]}..."


def meant(key: Any, known: list[str] | tuple[str, ...]) -> str:
    """What to write instead of a key that is unknown."""
    near = difflib.get_close_matches(str(key), known, n=1)
    if not near:  # useAIConfigurator, gpu-type: the same word, spelled otherwise
        near = [name for name in known if _bare(name) == _bare(str(key))]
    return f"did you mean {near[0]}?" if near else (f"known: {', '.join(known)}" if known else "remove it")


def _bare(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _without_quotes(value: Any, otherwise: str) -> str:
    if isinstance(value, str):
        try:
            return f"write {float(value):g}, without quotes" if float(value) > 0 else otherwise
        except ValueError:
            return otherwise
    return otherwise
