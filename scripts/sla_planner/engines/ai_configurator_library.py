"""NVIDIA's AI Configurator as a library: which of it is installed, what it has, and how it says no, each in one line.

Nothing of it is imported before `load`. It warns and logs on import and on every table, so whatever uses it runs within `quiet()`. Its models are
the config.json files that come with it, or a directory's; for any other id it would ask the network, so that is refused here.

Written against aiconfigurator-core 0.12, whose successor is aisimulate, with the same modules: that one is taken where it is installed.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from sla_planner.errors import UsageError

_LIBRARIES = (
    ("aisimulate_core", "AI Simulate", ("aisimulate-core", "aisimulate")),
    ("aiconfigurator_core", "AI Configurator", ("aiconfigurator-core",)),
)
_INSTALL = 'pip install "aiconfigurator-core==0.12.*" (Python 3.11 to 3.13)'
REFUSALS = (  # how the library says no
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)


@dataclass(frozen=True, slots=True)
class Library:
    """Its modules, by what they are for."""

    title: str  # with its version
    engine: Any
    memory: Any
    database: Any
    models: Any
    model_files: Any
    common: Any
    table_missing: type[Exception]


def load() -> Library:
    """The successor where it is installed, else AI Configurator. UsageError when neither is."""
    broken = ""
    for package, title, distributions in _LIBRARIES:
        try:
            import_module(package)
            engine, memory, database, models, model_files, common, errors = (
                import_module(f"{package}.sdk.{name}") for name in ("engine", "memory", "perf_database", "models", "utils", "common", "errors")
            )
        except ImportError as error:
            broken = broken or ("" if error.name == package else f"{title} is installed, but does not load: {in_short(error)}")
            continue
        named = f"{title} {_version_of(distributions)}".strip()
        return Library(named, engine, memory, database, models, model_files, common, errors.PerfDataNotAvailableError)
    raise UsageError(broken or "offline profiles need AI Configurator, which is not installed", hint=_INSTALL)


@contextmanager
def quiet() -> Iterator[None]:
    """The library warns and logs on import and on every table; what matters of it becomes a reason or a note."""
    loggers = [logging.getLogger(package) for package, _, _ in _LIBRARIES]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def table_version(library: Library, backend: str, system: str, asked: str = "") -> str:
    """The version of the tables to use. UsageError for a backend, a system or a version without tables."""
    database = library.database
    backends = [name.value for name in library.common.BackendName]
    if backend not in backends:
        raise _unknown(f"{library.title} does not know the backend {backend!r}", backend, backends)
    slots = database.get_version_slots(system, backend)
    if not slots:
        there = [name for name in backends if database.get_version_slots(system, name)]
        if there:
            raise _unknown(f"{library.title} has no tables of {backend} for {system}", backend, there)
        known = {path.stem for folder in database.get_systems_paths() for path in Path(folder).glob("*.yaml")}
        raise _unknown(
            f"{library.title} has no tables of {backend} for the system {system!r}",
            system,
            (s for s in known if database.get_version_slots(s, backend)),
        )
    if asked in ("", "latest"):
        return str(slots["current"])
    if asked not in slots.values():
        raise _unknown(f"{library.title} has no tables of {backend} {asked} for {system}", "", slots.values())
    return asked


def model_config(library: Library, model: str) -> Mapping[str, Any]:
    """What the library reads of config.json. An id that it does not hold itself is refused: it would ask the network for it."""
    listed = library.common.DefaultHFModels
    if not Path(model).is_dir() and model not in listed:
        near = " or ".join(_nearest(model, listed, 3))
        hint = "give a directory with its config.json" + (f", or did you mean {near}?" if near else "")
        raise UsageError(f"{library.title} has no config.json of the model {model!r}", hint=hint)
    try:
        config: Mapping[str, Any] = library.model_files.get_model_config_from_model_path(model)
        library.models.check_is_moe(model)  # refuses an architecture that the library has no model of
    except REFUSALS as error:
        raise UsageError(f"{library.title} cannot model {model}: {in_short(error)}", hint="offline profiles need a model that it knows") from error
    return config


def in_short(error: BaseException) -> str:
    """The library's own words in one line, without its paths, with gigabytes for bytes."""
    text = re.sub(r" at /\S+", "", " ".join(str(error).split())) or type(error).__name__
    text = re.sub(r"(\d{9,}) bytes", lambda found: f"{int(found[1]) / 1e9:.0f} GB", text)
    return text if len(text) <= 200 else text[:197] + "..."


def _unknown(message: str, value: str, known: Iterable[str]) -> UsageError:
    names = sorted(known)
    near = "".join(f"did you mean {name}? " for name in _nearest(value, names, 1))
    return UsageError(message, hint=f"{near}it has {', '.join(names)}")


def _nearest(value: str, known: Iterable[str], most: int) -> list[str]:
    by_lower = {name.lower(): name for name in known}
    return [by_lower[name] for name in get_close_matches(value.lower(), by_lower, n=most, cutoff=0.5)]


def _version_of(distributions: Iterable[str]) -> str:
    for distribution in distributions:
        try:
            return version(distribution)
        except PackageNotFoundError:
            continue
    return ""
