"""The engines that we know: one module each, with a constant `BACKEND`. Found by looking, so that a new engine is a new module and nothing else."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from functools import cache
from types import MappingProxyType

from sla_planner.engines.backend import Backend
from sla_planner.errors import UsageError


@cache
def _backends() -> Mapping[str, Backend]:
    found: list[Backend] = [importlib.import_module(f"{__name__}.{module.name}").BACKEND for module in pkgutil.iter_modules(__path__)]
    return MappingProxyType({one.name: one for one in sorted(found, key=lambda one: one.name)})


def backend_names() -> tuple[str, ...]:
    """In alphabetical order."""
    return tuple(_backends())


def backend(name: str) -> Backend:
    """The engine called `name`. Raises `UsageError` for an unknown one, with the known ones."""
    try:
        return _backends()[name]
    except KeyError:
        raise UsageError(f"unknown backend {name!r}", hint=f"known: {', '.join(backend_names())}") from None
