"""What is delivered to a cluster, as objects: kustomizations as the real kubectl builds them, and one-off Jobs as envsubst leaves them."""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

Object = dict[str, Any]

ROOT = Path(__file__).parents[2]
KUBECTL = Path(sys.executable).parent / "kubectl"
COMPONENTS = ROOT / "manifests" / "components"
OVERLAYS = sorted((ROOT / "manifests" / "overlays").iterdir())
ONE_OFF_JOBS = sorted([*ROOT.glob("jobs/*/job.yaml"), *ROOT.glob("jobs/*/*-job.yaml")])
# Variables without a default, as a user would set them.
CHOSEN = {"DOCKER_IMAGE": "nvcr.io/nvidia/ai-dynamo/vllm-runtime:1.0.0", "NAMESPACE": "llm"}

_VARIABLE = re.compile(r"\$(?:\{([A-Za-z_][A-Za-z0-9_]*)\}|([A-Za-z_][A-Za-z0-9_]*))")


@functools.cache
def build(folder: Path) -> tuple[Object, ...]:
    """The objects of a kustomization. Whatever kubectl refuses is raised as a ValueError with its words."""
    done = subprocess.run([KUBECTL, "kustomize", folder], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ValueError(done.stderr)
    assert not done.stderr, done.stderr  # deprecations are warnings there
    return tuple(yaml.load_all(done.stdout, Loader=yaml.CSafeLoader))  # eight times as fast


def overlay(folder: Path, *components: str, params: Mapping[str, str] | None = None, **more: Any) -> list[Object]:
    """The base with components, in a kustomization of a user's own that is written to `folder`; `more`: other keys of it."""
    own: Object = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [_from(folder, ROOT / "manifests" / "base")],
    }
    own["configMapGenerator"] = more.pop("configMapGenerator", [])
    if params:
        literals = [f"{key}={value}" for key, value in params.items()]
        own["configMapGenerator"].append({"name": "sla-params", "behavior": "merge", "literals": literals})
    own["components"] = [_from(folder, COMPONENTS / name) for name in components]
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(own | more))
    return list(build.__wrapped__(folder))


def _from(folder: Path, there: Path) -> str:
    """kustomize takes no absolute paths."""
    return os.path.relpath(there, folder.resolve())


def substituted(text: str, variables: Mapping[str, str]) -> str:
    """As `envsubst` does it: $NAME and ${NAME}; what is not set becomes nothing."""
    return _VARIABLE.sub(lambda found: variables.get(found[1] or found[2], ""), text)


@functools.cache
def defaults() -> Mapping[str, str]:
    """What jobs/env.sh sets in a shell that has set nothing."""
    command = ["env", "-i", "sh", "-c", '. "$0" && /usr/bin/env -0', str(ROOT / "jobs" / "env.sh")]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = dict(line.split("=", 1) for line in shown.split("\0") if line)
    return {name: value for name, value in found.items() if name not in ("PWD", "_", "SHLVL", "OLDPWD")}


@functools.cache
def one_off(file: Path) -> Object:
    """A one-off Job, with the defaults and CHOSEN."""
    job: Object = yaml.safe_load(substituted(file.read_text(), {**defaults(), **CHOSEN}))
    return job


@functools.cache
def delivered() -> tuple[tuple[str, Object], ...]:
    """Every object of every entry point, with where it is from; equal ones once."""
    sources = {".": build(ROOT), **{file.name: build(file) for file in OVERLAYS}}
    sources |= {str(file.relative_to(ROOT)): (one_off(file),) for file in ONE_OFF_JOBS}
    seen: list[Object] = []
    found = []
    for source, objects in sources.items():
        for each in objects:
            if each not in seen:
                seen.append(each)
                found.append((f"{source}: {each['kind']}/{each['metadata']['name']}", each))
    return tuple(found)


def of_kind(objects: Any, kind: str) -> dict[str, Object]:
    """By name."""
    return {each["metadata"]["name"]: each for each in objects if each["kind"] == kind}


def pod_template(found: Object) -> Object | None:
    """Of an object that makes pods."""
    spec = found.get("spec", {})
    if found["kind"] == "CronJob":
        spec = spec["jobTemplate"]["spec"]
    return spec.get("template") if found["kind"] in ("CronJob", "Job", "Deployment") else None


def job_spec(found: Object) -> Object | None:
    """Of a Job, or of those that a CronJob makes."""
    if found["kind"] not in ("Job", "CronJob"):
        return None
    spec: Object = found["spec"]["jobTemplate"]["spec"] if found["kind"] == "CronJob" else found["spec"]
    return spec
