"""Settings: one declaration per setting, from which its file key, environment variable, flag, check and reference line follow.

A stage declares a `Config` model whose fields are `Annotated[type, Setting("what it means", unit="ms")]`. For a field `load_predictor`:

    configuration file   load_predictor: ewma            (`load-predictor` is the same key)
    environment          SLA_PLANNER_LOAD_PREDICTOR      (and the aliases in `Setting.env`)
    command line         --load-predictor                (and the aliases in `Setting.flags`)

in rising priority. An empty environment variable counts as not set. A field of type `tuple[<Config>, ...]` is a list of sections: in the file it is
a list of mappings; every key of a section may also stand at the top level, where it is the default of all sections; environment variables and
flags override that key in *all* sections (without a file they describe a list of one).

`load` returns the checked values together with the source of each, so that the first log line can say what is in force and why.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar, get_args, get_origin

import click
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from sla_planner import __version__
from sla_planner.config_file import read_mapping
from sla_planner.config_words import allowed_of, bare_type, metavar_of, quoted, shown
from sla_planner.errors import UsageError

ENV_PREFIX = "SLA_PLANNER_"
DEFAULT = "default"  # source of a setting that nobody set

# Kubernetes sets <SERVICE>_PORT=tcp://10.0.0.1:9090 for every Service of the namespace; a Service `sla-planner-prometheus` would set our port.
_SERVICE_LINK = re.compile(r"(tcp|udp|sctp)://")


class Config(BaseModel):
    """Base of every settings model: immutable, no unknown keys, no silent conversions ("yes" is no number, true is not 1.0)."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


@dataclass(frozen=True, slots=True)
class Setting:
    """What a field means to a user. `flags` and `env` are further spellings; `replaces` names settings that a source which sets this one unsets.

    `default` says in words what an absent value means. `allowed` overrides the description derived from the type.
    """

    help: str
    unit: str = ""
    flags: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    metavar: str = ""
    default: str = ""
    allowed: str = ""
    replaces: tuple[str, ...] = ()


class Rejected(ValueError):
    """Raised by a check of a settings model. `settings` names the fields at fault when the check looks at several."""

    def __init__(self, message: str, *, hint: str = "", settings: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.settings = tuple(settings)


@dataclass(frozen=True, slots=True)
class Entry:
    """One setting of a model with all its spellings."""

    name: str
    type: Any
    default: Any
    setting: Setting

    @property
    def many(self) -> bool:
        return get_origin(bare_type(self.type)) is tuple

    @property
    def switch(self) -> bool:
        return bare_type(self.type) is bool

    @property
    def flags(self) -> tuple[str, ...]:
        return (f"--{self.name.replace('_', '-')}", *self.setting.flags)

    @property
    def off_flag(self) -> str:
        """The flag that takes a switch back which the file or the environment has set."""
        return f"--{self.name.removeprefix('no_')}".replace("_", "-") if self.name.startswith("no_") else f"--no-{self.name.replace('_', '-')}"

    @property
    def variables(self) -> tuple[str, ...]:
        return (f"{ENV_PREFIX}{self.name.upper()}", *self.setting.env)

    @property
    def allowed(self) -> str:
        unit = f", in {self.setting.unit}" if self.setting.unit else ""
        return (self.setting.allowed or allowed_of(self.type)) + unit

    @property
    def default_text(self) -> str:
        if self.setting.default or self.default in (None, ()):
            return self.setting.default
        return shown(self.default)


def entries(model: type[Config]) -> dict[str, Entry]:
    """The settings of a model by name, without its list of sections."""
    found = {}
    for name, field in model.model_fields.items():
        setting = next((m for m in field.metadata if isinstance(m, Setting)), None)
        if setting is not None:
            rest = tuple(m for m in field.metadata if m is not setting)
            kind = Annotated[(field.annotation, *rest)] if rest else field.annotation
            found[name] = Entry(name, kind, field.get_default(), setting)
    return found


def section_of(model: type[Config]) -> tuple[str, type[Config]] | None:
    """The field that lists sections, and the sections' model."""
    for name, field in model.model_fields.items():
        inner = next(iter(get_args(field.annotation)), None)
        if get_origin(field.annotation) is tuple and isinstance(inner, type) and issubclass(inner, Config):
            return name, inner
    return None


def all_entries(model: type[Config]) -> dict[str, Entry]:
    """The model's settings and those of its sections."""
    section = section_of(model)
    return {**entries(model), **(entries(section[1]) if section else {})}


# ---- command line -------------------------------------------------------------------------------------------------------------------------


def options_of(model: type[Config]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator: one click option per setting, and `--config`. The command takes `**flags` and hands them to `load`."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for entry in reversed(all_entries(model).values()):
            function = _option(entry)(function)
        text = f"YAML file with the same settings (key = flag without dashes); {ENV_PREFIX}<KEY> variables override it, flags override both."
        return click.option("--config", metavar="FILE", help=text)(function)

    return decorate


def _option(entry: Entry) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    notes = [entry.setting.unit, f"default {entry.default_text}" if entry.default_text else ""]
    note = "; ".join(filter(None, notes))
    help_text = f"{entry.setting.help} [{note}]" if note else entry.setting.help
    if entry.switch:
        return click.option(f"{entry.flags[0]}/{entry.off_flag}", *entry.flags[1:], entry.name, default=None, help=help_text)
    metavar = entry.setting.metavar or metavar_of(entry.type)
    return click.option(*entry.flags, entry.name, type=str, multiple=entry.many, metavar=metavar, help=help_text)


# ---- loading ------------------------------------------------------------------------------------------------------------------------------

C = TypeVar("C", bound=Config)
_Layer = dict[str, tuple[Any, str]]  # setting -> value, source


@dataclass(frozen=True, slots=True)
class Effective:
    """One setting in force. `path` is e.g. `targets[0].ttft`; passwords in `value` are masked."""

    path: str
    value: str
    source: str


@dataclass(frozen=True, slots=True)
class Loaded(Generic[C]):
    """The checked settings, where each came from, and `SLA_PLANNER_` variables that no setting of this stage reads."""

    config: C
    sources: Mapping[str, str]
    ignored: tuple[str, ...] = ()

    def settings(self) -> tuple[Effective, ...]:
        """Every setting in force, in the order of the model."""
        return tuple(Effective(path, shown(value), self.sources.get(path, DEFAULT)) for path, value in _flat(self.config, ""))

    def describe(self, *, defaults: bool = True) -> tuple[str, ...]:
        """The start-up lines: version, every setting with its source, one line per section, and what was ignored. `defaults`: also those not set."""
        lines: dict[str, list[str]] = {"": []}
        for setting in self.settings():
            if not defaults and setting.source == DEFAULT:
                continue
            place, _, name = setting.path.rpartition(".")
            lines.setdefault(place, []).append(f"{name}={setting.value} ({setting.source})")
        described = [
            f"sla-planner {__version__}: {', '.join(lines.pop('')) or 'all settings as by default'}",
            *(f"{place}: {', '.join(parts)}" for place, parts in lines.items()),
        ]
        return (*described, f"ignored: {', '.join(self.ignored)}") if self.ignored else tuple(described)


def load(model: type[C], flags: Mapping[str, Any], environment: Mapping[str, str] | None = None) -> Loaded[C]:
    """Settings from the file (`flags["config"]` or SLA_PLANNER_CONFIG), the environment and the flags, checked.

    `flags`: what `options_of` hands to the command; None and () mean not given. Raises `UsageError`, one line that names the file and key,
    variable or flag, the value, and what is allowed.
    """
    variables = os.environ if environment is None else environment
    known = all_entries(model)
    overrides = [_environment_layer(known, variables), _flag_layer(known, flags)]
    file = flags.get("config") or variables.get(f"{ENV_PREFIX}CONFIG")
    document = read_mapping(Path(file)) if file else {}
    section = section_of(model)

    top = _file_layer(document, known, f"file {file}", "", {section[0]} if section else set())
    own = entries(model)
    values, sources = _merge(own, [_only(own, layer) for layer in (top, *overrides)])
    if section is not None:
        listed, inner = section
        inner_known = entries(inner)
        shared = [_only(inner_known, layer) for layer in (top, *overrides)]
        built = []
        for index, entry in enumerate(_sections(document, listed, file)):
            place = f"{listed}[{index}]"
            layer = _file_layer(entry, inner_known, f"file {file}", f"{place}.", set(), outer=own)
            section_values, section_sources = _merge(inner_known, [shared[0], layer, *shared[1:]])
            built.append(_checked(inner, section_values, section_sources))
            sources |= {f"{place}.{name}": source for name, source in section_sources.items()}
        values[listed] = tuple(built)
    return Loaded(_checked(model, values, sources), sources, _ignored(known, variables))


def _file_layer(
    document: Mapping[Any, Any], known: Mapping[str, Entry], file: str, place: str, also: set[str], outer: Mapping[str, Entry] | None = None
) -> _Layer:
    layer: _Layer = {}
    for key, value in document.items():
        name = key.replace("-", "_") if isinstance(key, str) else key
        if name in also:
            continue
        if name not in known:
            if outer and name in outer:
                raise UsageError(f"{file}: {place}{name} belongs to the whole process", hint="move it to the top level")
            raise UsageError(f"{file}: unknown key {place}{quoted(key)}", hint=_suggestion(key, [*known, *also]))
        if name in layer:
            raise UsageError(f"{file}: {place}{name} is given twice, with - and with _", hint="remove one")
        layer[name] = ((value,) if known[name].many and isinstance(value, str) else value, f"{file}: {place}{name}")
    return layer


def _sections(document: Mapping[Any, Any], listed: str, file: str | None) -> list[Mapping[Any, Any]]:
    sections = document.get(listed, [{}])
    if not isinstance(sections, list) or not sections or not all(isinstance(entry, dict) for entry in sections):
        raise UsageError(f"file {file}: {listed} is not a list of mappings", hint=f"write `{listed}:` and one `- name: ...` per entry")
    return sections


def _environment_layer(known: Mapping[str, Entry], variables: Mapping[str, str]) -> _Layer:
    layer: _Layer = {}
    for entry in known.values():
        for variable in entry.variables:
            text = variables.get(variable, "")
            if text and not _is_service_link(variable, text) and entry.name not in layer:
                source = f"env {variable}"
                layer[entry.name] = (_parsed(entry, tuple(text.replace(",", " ").split()) if entry.many else text, source), source)
    return layer


def _flag_layer(known: Mapping[str, Entry], flags: Mapping[str, Any]) -> _Layer:
    layer: _Layer = {}
    for entry in known.values():
        value = flags.get(entry.name)
        if value is not None and value != ():
            source = f"flag {entry.off_flag if entry.switch and not value else entry.flags[0]}"
            layer[entry.name] = (_parsed(entry, value, source), source)
    return layer


def _only(known: Mapping[str, Entry], layer: _Layer) -> _Layer:
    return {name: found for name, found in layer.items() if name in known}


def _merge(known: Mapping[str, Entry], layers: Sequence[_Layer]) -> tuple[dict[str, Any], dict[str, str]]:
    """Values and sources; later layers win, and unset what their settings replace."""
    merged: _Layer = {}
    for layer in layers:
        for name in layer:
            for rival in known[name].setting.replaces:
                merged.pop(rival, None)
        merged |= layer
    return {name: value for name, (value, _) in merged.items()}, {name: source for name, (_, source) in merged.items()}


def _is_service_link(variable: str, text: str) -> bool:
    return variable.endswith("_PORT") and _SERVICE_LINK.match(text) is not None


def _ignored(known: Mapping[str, Entry], variables: Mapping[str, str]) -> tuple[str, ...]:
    """Variables with our prefix that nothing here reads: another stage's, a Service's, or a slip of the pen (then with a suggestion)."""
    read = {variable for entry in known.values() for variable in entry.variables} | {f"{ENV_PREFIX}CONFIG"}
    unread = sorted(name for name in variables if name.startswith(ENV_PREFIX) and name not in read)
    return tuple(f"{name} ({hint})" if (hint := _suggestion(name, read)) else name for name in unread)


# ---- checking -----------------------------------------------------------------------------------------------------------------------------


def _parsed(entry: Entry, text: Any, source: str) -> Any:
    """A value from text (a variable, a flag), which unlike a YAML value has no type yet."""
    try:
        return TypeAdapter(entry.type, config=ConfigDict(allow_inf_nan=False)).validate_python(text, strict=False)
    except ValidationError as error:
        raise _usage_error(error, entry, text, source) from None


def _checked(model: type[C], values: Mapping[str, Any], sources: Mapping[str, str]) -> C:
    try:
        return model(**values)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else ""
        if name in values and name in (known := entries(model)):
            raise _usage_error(error, known[name], values[name], sources[name]) from None
        rejected = first.get("ctx", {}).get("error")
        if not isinstance(rejected, Rejected):
            raise
        given = [sources[name] for name in rejected.settings if name in sources]
        where = f"{', '.join(given)}: " if given else ""
        raise UsageError(f"{where}{rejected.message}", hint=rejected.hint) from None


def _usage_error(error: ValidationError, entry: Entry, value: Any, source: str) -> UsageError:
    rejected = error.errors()[0].get("ctx", {}).get("error")
    if isinstance(rejected, Rejected):
        return UsageError(f"{source}: {rejected.message}", hint=rejected.hint or f"use {entry.allowed}")
    at_fault = error.errors()[0]["input"] if entry.many else value
    return UsageError(f"{source}: {quoted(at_fault)} is not allowed", hint=f"use {entry.allowed}")


def _suggestion(word: Any, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(str(word).replace("-", "_"), list(known), n=1, cutoff=0.7)
    return f"did you mean {near[0]}?" if near else ""


def _flat(config: Config, place: str) -> Iterator[tuple[str, Any]]:
    for name in type(config).model_fields:
        value = getattr(config, name)
        if isinstance(value, tuple) and value and all(isinstance(inner, Config) for inner in value):
            for index, inner in enumerate(value):
                yield from _flat(inner, f"{place}{name}[{index}].")
        else:
            yield f"{place}{name}", value
