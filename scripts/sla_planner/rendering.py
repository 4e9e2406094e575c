"""Files that are rendered from Jinja templates and values, and how a committed one is compared with what would be rendered now.

    templates/<group>/NAME.yaml.j2      a template; a name that begins with _ is a part of others
    templates/<group>/values.yaml       every value of the group's templates with its default, whose kind any other value must have
    templates/<group>/backends/B.yaml   values of backend B, in a group with the value `backend`
    templates/<group>/renders.yaml      what is committed: file -> {template: NAME, values: [FILE, ...], set: {NAME: VALUE, ...}}

Later wins: values.yaml, backends/B.yaml, values files, single values. A template can use what is in values.yaml, and `version`, ours. It writes a
value into YAML through `tojson` only. The first line of what is rendered says what it was rendered from:

    # Rendered from templates/<group>/NAME.yaml.j2 (<digest of the template, its parts and the values>); edit the template
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import yaml

from sla_planner import __version__
from sla_planner.config_file import read_mapping
from sla_planner.errors import UsageError

MARK = "# Rendered from "
RENDERS = "renders.yaml"
VALUES = "values.yaml"

_BACKEND = "backend"
_SUFFIX = ".yaml.j2"
# A string of JSON may hold these as they are; YAML takes some for the end of a line, and refuses the others.
_ESCAPED_IN_YAML = re.compile("[\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")
# Beside its own errors, PyYAML lets pass what Python says of a date like 2026-13-01 or a tag that does not fit.
_NO_YAML = (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError, RecursionError)
_KINDS: dict[type, str] = {
    bool: "true or false",
    int: "a whole number, 0 or more",
    str: "a text; in a file, quote it",
    list: 'a list of texts, for example [--page-size, "16"]',
    dict: "a mapping",
}


@dataclass(frozen=True, slots=True)
class Output:
    """A file that is committed, and the text that it would be rendered to now."""

    file: Path
    text: str

    def difference(self) -> str:
        """A unified diff from what is committed to what would be; '' when they are the same."""
        old = self.file.read_text(encoding="utf-8") if self.file.exists() else ""
        if old == self.text:
            return ""
        names = (f"{self.file} (committed)", f"{self.file} (rendered)")
        return "\n".join(difflib.unified_diff(old.splitlines(), self.text.splitlines(), *names, lineterm=""))


class Template:
    """One template with the values that it takes. `folder`: of the groups. `name`: NAME or <group>/NAME. Raises `UsageError` when it is not one's."""

    def __init__(self, folder: Path, name: str) -> None:
        self._file = _template_file(folder, name)
        self._place = f"{folder.resolve().name}/{self._file.relative_to(folder).as_posix()}"
        self._values_file = self._file.with_name(VALUES)
        self._defaults = read_mapping(self._values_file)

    @property
    def group(self) -> Path:
        """The folder of the template and its values."""
        return self._file.parent

    def value(self, name: str, text: str) -> Any:
        """The value called `name` that `text` stands for: the text itself where the default is one, else what it is as YAML."""
        self._check_known(name, "")
        if isinstance(self._defaults[name], str):
            return text
        try:
            return yaml.safe_load(text)
        except _NO_YAML:
            return text

    def render(self, files: Iterable[Path] = (), values: Mapping[str, Any] | None = None) -> str:
        """The text with its first line. Raises `UsageError` for a value that cannot be, and for a template that is wrong."""
        given = self._merged(files, values or {})
        sources: dict[str, str] = {}
        try:
            body = self._environment(sources).get_template(self._file.name).render({**given, "version": __version__})
        except jinja2.TemplateNotFound as error:
            raise UsageError(
                f"{self._place}: there is no part {error.name!r}", hint=f"correct the value that names it: {self._values_file}"
            ) from None
        except jinja2.TemplateError as error:
            line = f" line {error.lineno}" if isinstance(error, jinja2.TemplateSyntaxError) else ""
            raise UsageError(f"{self._place}{line}: {error.message}", hint=f"values are declared in {self._values_file}") from None
        except TypeError as error:  # for example a date among the values, or a number and a text added
            raise UsageError(f"{self._place}: {error}", hint="quote the value, or correct the template") from None
        self._check_yaml(body)
        digest = hashlib.sha256(json.dumps([sources, given], sort_keys=True, default=str).encode()).hexdigest()[:12]
        return f"{MARK}{self._place} ({digest}); edit the template\n{body}"

    def _merged(self, files: Iterable[Path], values: Mapping[str, Any]) -> dict[str, Any]:
        layers = [(read_mapping(file), f"file {file}: ") for file in files]
        layers.append((dict(values), ""))
        if _BACKEND in self._defaults:
            chosen = next((layer[_BACKEND] for layer, _ in reversed(layers) if _BACKEND in layer), self._defaults[_BACKEND])
            file = self._backend_file(str(chosen))
            layers.insert(0, (read_mapping(file), f"file {file}: "))
        merged = dict(self._defaults)
        for layer, place in layers:
            for name, value in layer.items():
                self._check_known(name, place)
                merged[name] = _checked(value, self._defaults[name], f"{place}{name}")
        return merged

    def _backend_file(self, backend: str) -> Path:
        files = {file.stem: file for file in sorted(self.group.glob("backends/*.yaml"))}
        if backend not in files:
            raise UsageError(f"{backend!r} is no backend of {self._place}", hint=f"known: {', '.join(files)}")
        return files[backend]

    def _check_known(self, name: str, place: str) -> None:
        if name not in self._defaults:
            raise UsageError(f"{place}{self._place} has no value {name!r}", hint=f"{_meant(str(name), self._defaults)} ({self._values_file})")

    def _check_yaml(self, body: str) -> None:
        try:
            for _ in yaml.safe_load_all(body):
                pass
        except _NO_YAML as error:
            raise UsageError(f"{self._place}: what it renders is no YAML: {' '.join(str(error).split())}", hint="correct the template") from None

    def _environment(self, sources: dict[str, str]) -> jinja2.Environment:
        """`sources` receives the template and every part that it loads."""

        def load(name: str) -> tuple[str, str, None] | None:
            file = self.group / name
            if not file.is_file():
                return None
            sources[name] = file.read_text(encoding="utf-8")
            return sources[name], str(file), None

        environment = jinja2.Environment(
            loader=jinja2.FunctionLoader(load),
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
            autoescape=False,  # YAML, not HTML: `tojson` quotes
        )
        environment.filters["tojson"] = _as_json
        return environment


def outputs(folder: Path) -> list[Output]:
    """Every committed file that the groups of `folder` list; their paths are relative to the parent of `folder`. Raises `UsageError`."""
    lists = sorted(folder.glob(f"*/{RENDERS}"))
    if not lists:
        raise _no_templates(folder)
    return [
        Output(folder.parent / str(path), _rendered(folder, listing.parent.name, f"file {listing}: {path}", row))
        for listing in lists
        for path, row in read_mapping(listing).items()
    ]


def unlisted(rendered: Sequence[Output]) -> list[Path]:
    """Files beside the `rendered` ones that were rendered once and are not any more."""
    known = {output.file for output in rendered}
    beside = {file for folder in {file.parent for file in known} for file in folder.glob("*.yaml")}
    return sorted(file for file in beside - known if file.read_text(encoding="utf-8", errors="replace").startswith(MARK))


def _template_file(folder: Path, name: str) -> Path:
    files = {file.relative_to(folder).as_posix().removesuffix(_SUFFIX): file for file in sorted(folder.glob(f"*/[!_]*{_SUFFIX}"))}
    if not files:
        raise _no_templates(folder)
    found = [path for path in files if name in (path, path.rpartition("/")[2])]
    if len(found) > 1:
        raise UsageError(f"{len(found)} templates are named {name!r}", hint=f"name one of {', '.join(found)}")
    if not found:
        raise UsageError(f"no template is named {name!r}", hint=_meant(name, [path.rpartition("/")[2] for path in files]))
    return files[found[0]]


def _no_templates(folder: Path) -> UsageError:
    return UsageError(f"no templates in {folder}", hint="run this in a copy of the project, or name its folder with --templates")


def _rendered(folder: Path, group: str, place: str, row: Any) -> str:
    if not isinstance(row, dict) or not {"template"} <= row.keys() <= {"template", "values", "set"}:
        raise UsageError(f"{place}: {row!r}", hint="write {template: NAME, values: [FILE, ...], set: {NAME: VALUE, ...}}")
    template = Template(folder, f"{group}/{row['template']}")
    try:
        return template.render([template.group / str(file) for file in row.get("values") or ()], row.get("set"))
    except UsageError as error:
        raise UsageError(f"{place}: {error.message}", hint=error.hint) from None


def _checked(value: Any, default: Any, place: str) -> Any:
    """`value`, if it is of the kind of `default`."""
    kind = type(default)
    right = type(value) is kind
    if kind is int:
        right = right and value >= 0
    if kind is list:
        right = right and all(isinstance(one, str) for one in value)
    if not right:
        raise UsageError(f"{place}: {value!r}", hint=f"it must be {_KINDS[kind]}")
    return value


def _meant(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"


def _as_json(value: Any) -> str:
    """JSON that is YAML too, in which the value is the same."""
    if isinstance(value, jinja2.Undefined):
        str(value)  # raises, and says which one
    text = json.dumps(value, ensure_ascii=False)
    return _ESCAPED_IN_YAML.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
