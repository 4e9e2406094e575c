"""What the arguments of a worker say, and the command line of the simulated engine that takes its place.

    vLLM, SGLang, TensorRT-LLM                     engine-sim
    --tensor-parallel-size, --tp, --tp-size ...    --tp           else the GPUs of the worker
    --served-model-name, --model, --model-path     --model
    --max-num-batched-tokens                       --max-batched-tokens
    --max-num-seqs                                 --max-sequences

More of it can be asked for in the worker's environment: ENGINE_SIM_ARGS="--startup-s 5 --time-scale 2".
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from typing import Any

from .graph import Component, Graph

EXTRA = "ENGINE_SIM_ARGS"
HTTP_PORT, WORKER_PORT = 8000, 9090
PROFILE_MOUNT = "/profile"

_TP = ("--tensor-parallel-size", "--tensor_parallel_size", "--tp-size", "--tp_size", "--tp", "-tp")
_DP = ("--data-parallel-size", "--data_parallel_size", "--dp-size", "--dp", "--attn-dp-size", "--attention-data-parallel-size")
_MODEL = ("--served-model-name", "--served_model_name", "--model", "--model-path", "--model_path")
_LIMITS = {"--max-num-batched-tokens": "--max-batched-tokens", "--max-num-seqs": "--max-sequences"}


def frontend_arguments(graph: Graph) -> list[str]:
    """Where one engine does both phases, its frontend is not needed: it is an idle engine that is there to be counted."""
    if graph.prefill is None or graph.decode is None:
        return _serving("agg", HTTP_PORT, model_of(graph))
    workers = {"--prefill-workers-at": graph.prefill, "--decode-workers-at": graph.decode}
    places = [word for flag, worker in workers.items() for word in (flag, f"http://{graph.object_name(worker)}:{WORKER_PORT}")]
    return [*_serving("frontend", HTTP_PORT, model_of(graph)), *places]


def worker_arguments(graph: Graph, worker: Component) -> list[str]:
    """Raises `GraphError`."""
    mode, port = ("agg", HTTP_PORT) if graph.prefill is None else ("prefill" if worker is graph.prefill else "decode", WORKER_PORT)
    words = command_line(worker.container)
    limits = [word for flag, ours in _LIMITS.items() if (value := _value(words, (flag,))) for word in (ours, value)]
    size = ["--tp", str(tensor_parallel(worker)), *_ranks(words)]
    return [*_serving(mode, port, model_of(graph)), "--profile", PROFILE_MOUNT, *size, *limits, *_extra(worker)]


def _ranks(words: Sequence[str]) -> list[str]:
    given = _value(words, _DP)
    return ["--ranks", given] if given and given.isdecimal() and int(given) > 1 else []


def tensor_parallel(worker: Component) -> int:
    words = command_line(worker.container)
    given = _value(words, _TP)
    if given is None and (overridden := _value(words, ("--override-engine-args",))):
        given = str(json.loads(overridden).get("tensor_parallel_size", ""))
    return int(given) if given and given.isdecimal() else max(worker.gpus, 1)


def model_of(graph: Graph) -> str:
    """As requests name it; the graph's name where no worker says it in plain words."""
    words = command_line(graph.decode.container) if graph.decode else []
    named = _value(words, _MODEL)
    return graph.name if named is None or "$" in named else named


def command_line(container: dict[str, Any]) -> list[str]:
    """All words, those of shell scripts too."""
    words: list[str] = []
    for key in ("command", "args"):
        given = container.get(key) or ()
        for text in [given] if isinstance(given, str) else map(str, given):
            words += _split(text) if any(character.isspace() for character in text) and not text.lstrip().startswith("{") else [text]
    return words


def _serving(mode: str, port: int, model: str) -> list[str]:
    return ["engine-sim", "--mode", mode, "--host", "0.0.0.0", "--port", str(port), "--model", model]


def _extra(worker: Component) -> list[str]:
    return next((shlex.split(entry.get("value", "")) for entry in worker.container.get("env") or () if entry.get("name") == EXTRA), [])


def _split(script: str) -> list[str]:
    try:
        return shlex.split(script)
    except ValueError:
        return script.split()


def _value(words: Sequence[str], flags: Sequence[str]) -> str | None:
    """Of the first of `flags` that is there."""
    for flag in flags:
        for index, word in enumerate(words):
            if word == flag and index + 1 < len(words):
                return words[index + 1]
            if word.startswith(f"{flag}="):
                return word.partition("=")[2]
    return None
