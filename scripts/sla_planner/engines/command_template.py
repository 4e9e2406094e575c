"""The command line of an engine, written once for all mappings.

    vllm serve {model} --tensor-parallel-size {tp} --port {port} --compilation-config '{{"level": 3}}'

The text is split into words as a shell would (quotes, backslashes, continued lines), then each word is filled. No shell ever runs it, so a value is
one word whatever is in it. A brace that is meant is written twice.
"""

from __future__ import annotations

import shlex
import string
from dataclasses import dataclass

from sla_planner.config_words import quoted
from sla_planner.errors import UsageError
from sla_planner.sweep.port import Deployment

PLACEHOLDERS = ("tp", "pp", "dp", "ep", "gpus", "port", "model", "phase")
PORT = "{port}"  # stands for itself in a command that is shown and not run

_KNOWN = "known: " + ", ".join(f"{{{name}}}" for name in PLACEHOLDERS) + "; a brace that is meant is written twice"
_IN_WORDS = "the engine command"


@dataclass(frozen=True, slots=True)
class CommandTemplate:
    """A checked template. Raises `UsageError` for one that cannot be split, names something unknown, or leaves the port out."""

    text: str

    def __post_init__(self) -> None:
        words = self._words()
        if not words:
            raise UsageError(f"{_IN_WORDS} is empty", hint=f"give one with {PORT} where the port goes")
        used = {field for word in words for field in _fields(word)}
        if "port" not in used:
            raise UsageError(f"{_IN_WORDS} has no {PORT}: {quoted(self.text)}", hint=f"put it where the engine takes its port, e.g. --port {PORT}")

    def filled(self, deployment: Deployment, *, model: str, port: str) -> list[str]:
        """The words of the command for `deployment`. Raises `UsageError` when the template asks for a model and `model` is ''."""
        mapping = deployment.mapping
        values = {
            "tp": str(mapping.tp),
            "pp": str(mapping.pp),
            "dp": str(mapping.dp),
            "ep": str(mapping.ep),
            "gpus": str(mapping.gpus),
            "port": port,
            "model": model,
            "phase": str(deployment.phase),
        }
        words = self._words()
        if not model and any("model" in _fields(word) for word in words):
            raise UsageError(f"{_IN_WORDS} uses {{model}}, but no model is given", hint="give --model, or write its name into the command")
        return [word.format_map(values) for word in words]

    def _words(self) -> list[str]:
        try:
            return shlex.split(self.text.replace("\\\n", " "))
        except ValueError as error:
            raise UsageError(f"{_IN_WORDS} cannot be split into words ({error}): {quoted(self.text)}", hint="check its quotes") from None


def _fields(word: str) -> list[str]:
    """Names of the placeholders in one word."""
    try:
        parts = list(string.Formatter().parse(word))
    except ValueError as error:
        raise UsageError(f"{_IN_WORDS} has a brace without its pair ({error}) in {quoted(word)}", hint=_KNOWN) from None
    names = []
    for _, name, form, conversion in parts:
        if name is None:
            continue
        if name not in PLACEHOLDERS or form or conversion:
            written = name + (f"!{conversion}" if conversion else "") + (f":{form}" if form else "")
            raise UsageError(f"{_IN_WORDS} has an unknown placeholder {{{written}}} in {quoted(word)}", hint=_KNOWN)
        names.append(name)
    return names
