"""What is wrong with a kubeconfig, fault by fault, each with what to do about it: the client has one sentence for them all."""

from __future__ import annotations

import os
from pathlib import Path

from yaml import YAMLError, safe_load

from sla_planner.errors import UsageError

NO_CLUSTER = "no cluster to talk to"


def check_kubeconfig(file: str, context: str | None) -> None:
    """Raises `UsageError` for one that is not there, and for a context that it does not have; what else is wrong the client finds."""
    places = [Path(place) for place in file.split(os.pathsep) if place]
    if not any(place.is_file() for place in places):
        raise UsageError(f"{NO_CLUSTER}: there is no kubeconfig {file}", hint="run in a pod, or name the file with KUBECONFIG")
    known: list[str] = []
    current = ""
    for place in places:
        try:
            document = safe_load(place.read_text()) if place.is_file() else {}
            known += [str(each["name"]) for each in document.get("contexts") or ()]
            current = current or str(document.get("current-context") or "")
        except YAMLError as error:
            raise UsageError(f"{NO_CLUSTER}: the kubeconfig {place} is no YAML: {' '.join(str(error).split())[:200]}", hint="correct it") from None
        except (OSError, ValueError, TypeError, AttributeError, LookupError):
            return
    there_are = f"there are: {', '.join(known)}" if known else "it has none"
    wanted = context or current
    if wanted in known:
        return
    if context is not None:
        raise UsageError(f"{NO_CLUSTER}: the kubeconfig {file} has no context {context}; {there_are}", hint="name one of them with --context")
    what = f"the current context of the kubeconfig {file}, {current}, is not in it" if current else f"the kubeconfig {file} has no current context"
    raise UsageError(f"{NO_CLUSTER}: {what}; {there_are}", hint="choose one: kubectl config use-context NAME")
