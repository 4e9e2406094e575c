"""What both shapes of a request have in common: names and their lengths, labels, images, the Job's resources and tolerations, the promise, and
settings of the planner that are handed on.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sla_planner.model.sla import Sla
from sla_planner.request.reading import Findings, Section, is_number, is_whole, meant, shown, snake_case
from sla_planner.request.spec import Fault, ModelCache, Object
from sla_planner.sweep.result import Goal

BACKENDS = ("vllm", "sglang", "trtllm")
MODEL_CACHE_PATH = "/opt/model-cache"  # where the reference mounts it
FEWEST_PREFILL_POINTS, FEWEST_DECODE_POINTS = 4, 5

LONGEST_LABEL = 63
LONGEST_NAME = LONGEST_LABEL - len("profile-")  # the Job is called profile-<name>
_LONGEST_SERVICE = "-frontend"  # added to a graph's name, it is the name of a Service

_LABEL_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_SERVICE_NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_OBJECT_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_WORD = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_QUANTITY = re.compile(r"[+]?([0-9]+\.?[0-9]*|\.[0-9]+)([KMGTPE]i|[numkMGTPE]|[eE][+-]?[0-9]+)?")
_OURS = ("dgdr.nvidia.com/", "slaplanner.io/", "app.kubernetes.io/managed-by")
_NAMES = "write lower case letters, digits and -"


class InvalidRequestError(Exception):
    """A request that cannot be followed as it is written."""

    def __init__(self, faults: tuple[Fault, ...]) -> None:
        super().__init__("; ".join(map(str, faults)))
        self.faults = faults


@dataclass(frozen=True, slots=True)
class Allowed:
    """What reading needs to know of other rooms.

    `planner_settings`: names of the planner's settings, with underscores. `planner_fixed`: settings that the generated deployment sets itself -> by
    what, in words. `check_planner`: what is wrong with settings, each fault with the name of the setting as its path. `aic_systems`: names that
    AI Configurator has of GPUs; empty: not known, everything goes.
    """

    planner_settings: frozenset[str]
    planner_fixed: Mapping[str, str] = field(default_factory=dict)
    check_planner: Callable[[Mapping[str, Any]], Sequence[Fault]] | None = None
    aic_systems: frozenset[str] = frozenset()


# ---- names ----------------------------------------------------------------------------------------------------------------------------------


def check_name(name: str, findings: Findings) -> None:
    """Of the request itself: the Job that profiles is called after it."""
    if len(name) > LONGEST_NAME:
        message = f"{name!r} has {len(name)} characters, and the Job profile-{name} would have more than {LONGEST_LABEL}"
        findings.fault("metadata.name", message, f"use at most {LONGEST_NAME} characters")


def check_graph_name(path: str, name: str, namespace: str, findings: Findings) -> None:
    """Of the generated deployment: Services and a label of its pods are called after it. `path`: where the name comes from."""
    if not _SERVICE_NAME.fullmatch(name):
        hint = f"{_NAMES}, a letter first" + ("" if path != "metadata.name" else ", or set the name of the deployment apart from the request's")
        findings.fault(path, f"{name!r} cannot begin the names of Services", hint)
    longest = LONGEST_LABEL - max(len(_LONGEST_SERVICE), len(namespace) + 1)
    if len(name) > longest:
        message = f"{name!r} has {len(name)} characters; {name}{_LONGEST_SERVICE} and {namespace}-{name} may have {LONGEST_LABEL}"
        findings.fault(path, message, f"use at most {longest} characters")


def object_name(section: Section, name: str) -> str | None:
    """Of an object in Kubernetes that is referred to."""
    text = section.text(name)
    if text is None or _OBJECT_NAME.fullmatch(text):
        return text
    section.fault(name, f"{shown(text)} is no name of an object", _NAMES)
    return None


def namespace_of(section: Section, name: str) -> str | None:
    text = section.text(name)
    if text is None or (_LABEL_NAME.fullmatch(text) and len(text) <= LONGEST_LABEL):
        return text
    section.fault(name, f"{shown(text)} is no name of a namespace", _NAMES)
    return None


def check_own_namespace(section: Section, name: str, own: str) -> None:
    """Of where engines are measured: that is where the request is."""
    if (text := namespace_of(section, name)) is not None and text != own:
        why = f"the request is in {own}, and engines are measured where it is"
        section.fault(name, f"{shown(text)} cannot be followed: {why}", f"leave it out, or create the request in {text}")


def image(section: Section, name: str) -> str | None:
    text = section.text(name)
    if text is None or not (re.search(r"\s", text) or text.startswith(("http://", "https://", "docker://"))):
        return text
    section.fault(name, f"{shown(text)} is no image", "write REGISTRY/NAME:TAG, without a scheme and without blanks")
    return None


def labels_of(section: Section, name: str) -> dict[str, str]:
    """Labels to be set on the deployment."""
    found = _texts(section, name)
    for key, value in found.items():
        if value and not _WORD.fullmatch(value):
            hint = "use at most 63 letters, digits, - _ and ., or make it an annotation"
            section.findings.fault(f"{section.path_of(name)}.{key}", f"{shown(value)} is no value of a label", hint)
    return found


def annotations_of(section: Section, name: str) -> dict[str, str]:
    """Annotations to be set on the deployment."""
    return _texts(section, name)


def _texts(section: Section, name: str) -> dict[str, str]:
    found = {}
    for key, value in (section.mapping(name) or {}).items():
        path = f"{section.path_of(name)}.{key}"
        prefix, slash, word = str(key).rpartition("/")
        if not _WORD.fullmatch(word) or (slash and not (_OBJECT_NAME.fullmatch(prefix) and len(prefix) <= 253)):
            section.findings.fault(path, f"{key!r} is no key", "write NAME or DOMAIN/NAME, at most 63 letters, digits, - _ and . in NAME")
        elif str(key).startswith(_OURS):
            section.findings.fault(path, f"{shown(value)} cannot be followed: by this key the deployment is found again", "remove it")
        elif not isinstance(value, str):
            section.findings.fault(path, f"must be a text, not {shown(value)}", f"put it in quotes: {shown(str(value).lower())}")
        else:
            found[str(key)] = value
    return found


# ---- the Job --------------------------------------------------------------------------------------------------------------------------------


def resources(section: Section) -> Object | None:
    """The Job's `resources`, requests and limits of it, as Kubernetes has them."""
    if section.value("resources") is None:
        return None
    found: dict[str, dict[str, str]] = {}
    opened = section.section("resources")
    for kind in ("requests", "limits"):
        amounts: dict[str, str] = {}
        for key, value in (opened.mapping(kind) or {}).items():
            if isinstance(value, bool) or not _QUANTITY.fullmatch(str(value)):
                path = f"{opened.path_of(kind)}.{key}"
                section.findings.fault(path, f"{shown(value)} is no amount", "write for example 500m or 16 for cpu, 10Gi for memory")
            amounts[str(key)] = str(value)
        if amounts:
            found[kind] = amounts
    opened.no_effect("claims", "the sweep itself needs no device")
    return found


def tolerations(section: Section) -> tuple[Object, ...]:
    """The Job's `tolerations`, as Kubernetes has them."""
    listed = section.value("tolerations")
    if listed is None:
        return ()
    if not isinstance(listed, list):
        section.fault("tolerations", f"must be a list, not {shown(listed)}", "write `- key: ...` for each of them")
        return ()
    for index, each in enumerate(listed):
        one = Section(each, f"{section.path}.tolerations[{index}]", section.findings)
        key, operator, value = one.text("key"), one.one_of("operator", ("Exists", "Equal", "Lt", "Gt")), one.text("value")
        effect = one.one_of("effect", ("NoSchedule", "PreferNoSchedule", "NoExecute"))
        seconds = one.value("tolerationSeconds")
        if key is None and operator != "Exists" and isinstance(each, Mapping):
            one.fault("key", "is missing", "add the key of the taint, or operator: Exists for all taints")
        if value is not None and operator == "Exists":
            one.fault("value", f"{shown(value)} means nothing with operator Exists", "remove it, or write operator: Equal")
        if seconds is not None and not is_whole(seconds):
            one.fault("tolerationSeconds", f"must be a whole number, not {shown(seconds)}", "write a number of seconds")
        elif seconds is not None and effect != "NoExecute":
            one.fault("tolerationSeconds", f"{shown(seconds)} means nothing without effect NoExecute", "remove it, or write effect: NoExecute")
        one.finish()
    return tuple(listed)


def model_cache(claim: str | None, path: str | None, mount_path: str | None, place: str, findings: Findings) -> ModelCache | None:
    """The volume with the weights. `place`: the path of the mapping that it was read from."""
    if claim is None:
        if path is not None or mount_path not in (None, MODEL_CACHE_PATH):
            findings.fault(place, "the model cache has a path and no claim", "name the PersistentVolumeClaim, or remove the paths")
        return None
    folder = (path or "").strip("/")
    if ".." in folder.split("/"):
        findings.fault(place, f"{shown(path)} leads out of the volume", "write a path in the volume, without ..")
    if mount_path is not None and not mount_path.startswith("/"):
        findings.fault(place, f"{shown(mount_path)} is no place to mount a volume at", f"write a path that begins with /, such as {MODEL_CACHE_PATH}")
    return ModelCache(claim, folder, mount_path or MODEL_CACHE_PATH)


# ---- the promise ----------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Lengths:
    """Of a request of the promise, with where they were written."""

    isl: int | None
    osl: int | None
    path: str


def lengths(section: Section, isl: int | None = None, osl: int | None = None) -> Lengths:
    """`isl` and `osl` of a section; the arguments are for one that has none."""
    return Lengths(section.count("isl") or isl, section.count("osl", least=2) or osl, section.path)


def goal(of: Lengths, ttft_ms: float | None, itl_ms: float | None, planner: Mapping[str, Any]) -> Goal | None:
    """The promise; None where a part of it is missing, which is a fault already. The planner's attainment is that of the profile too."""
    if of.isl is None or of.osl is None or ttft_ms is None or itl_ms is None:
        return None
    share = planner.get("attainment") if is_number(planner.get("attainment")) else None
    promise = Sla(ttft_ms, itl_ms) if share is None else Sla(ttft_ms, itl_ms, share)
    return Goal(promise, of.isl, of.osl)


def check_context(of: Lengths, section: Section, name: str, findings: Findings) -> int | None:
    """The longest context, which holds a request of the promise."""
    longest = section.count(name)
    if longest is not None and of.isl is not None and of.osl is not None and of.isl + of.osl > longest:
        message = f"a request of {of.isl} + {of.osl} = {of.isl + of.osl} tokens does not fit {longest}"
        findings.fault(section.path_of(name), message, f"raise it, or lower isl or osl in {of.path}")
    return longest


# ---- the planner ----------------------------------------------------------------------------------------------------------------------------


def planner_settings(section: Section, allowed: Allowed) -> dict[str, Any]:
    """Settings to hand on, by their names: `planner_min_endpoint`, `min_endpoint`, `plannerMinEndpoint` and `min-endpoint` are the same."""
    found: dict[str, Any] = {}
    paths: dict[str, str] = {}
    for key in section.values:
        value, path = section.value(str(key)), f"{section.path}.{key}"
        name = snake_case(str(key).replace("-", "_")).removeprefix("planner_")
        if name in allowed.planner_fixed:
            section.findings.fault(path, f"{shown(value)} cannot be followed: it is set by {allowed.planner_fixed[name]}", "remove it")
        elif name not in allowed.planner_settings:
            hint = meant(name, sorted(allowed.planner_settings - allowed.planner_fixed.keys()))
            section.findings.fault(path, f"the planner has no such setting, its value is {shown(value)}", hint)
        elif name in found and found[name] != value:
            section.findings.fault(path, f"{shown(value)}, but {paths[name]} is {shown(found[name])}", "both mean the same thing: keep one of them")
        elif value is not None:
            found[name], paths[name] = value, path
    for fault in allowed.check_planner(found) if found and allowed.check_planner else ():
        section.findings.fault(paths.get(fault.path, section.path), fault.message, fault.hint)
    return found
