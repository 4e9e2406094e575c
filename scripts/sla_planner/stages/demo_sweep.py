"""The demo's first act: a short sweep over two tensor-parallel sizes of the simulated engine, whose result the planner then lives on.

The engine is the shipped H200 profile, slowed so that a laptop can carry its traffic, at one GPU and by a law of tensor parallelism at two
(model/tensor_parallel.py). Its KV cache is cut to what is filled within seconds; the demo's requests never need more.
"""

from __future__ import annotations

import shlex
import shutil
import sys
from dataclasses import replace
from pathlib import Path

from sla_planner.model.profile import Profile, slowed
from sla_planner.model.sla import Sla
from sla_planner.model.tensor_parallel import over_tensor_parallel
from sla_planner.store.profile_files import read_profile, sample_profile_dir, write_profile_json

SLOWDOWN = 2.0
SIZES = (1, 2)
KV_TOKENS = 300_000  # of one GPU
MOST_CONTEXT_TOKENS = 8192
ISL_TOKENS, OSL_TOKENS = 1150, 200  # means of the recorded traffic
PREFILL_POINTS, DECODE_POINTS = 4, 6


def write_engines(path: Path) -> None:
    """The truth that engine-sim follows, and that the sweep has to find out."""
    one_gpu = slowed(read_profile(sample_profile_dir()), SLOWDOWN)
    fits = tuple(
        replace(m, max_kv_tokens=KV_TOKENS, points=tuple(replace(p, kv_usage=p.kv_usage * m.max_kv_tokens / KV_TOKENS) for p in m.points))
        for m in one_gpu.decode
    )
    held = tuple(replace(m, points=tuple(p for p in m.points if p.kv_usage <= 1)) for m in fits)
    write_profile_json(over_tensor_parallel(replace(one_gpu, decode=held), SIZES), path)


def sweep_flags(engines: Path, results: Path, model: str, promise: Sla) -> tuple[str, ...]:
    """Of `profile-sweep`, into the emptied folder `results`."""
    shutil.rmtree(results, ignore_errors=True)
    python, profile = shlex.quote(sys.executable), shlex.quote(str(engines))
    command = f"{python} -m sla_planner engine-sim --mode agg --profile {profile} --tp {{tp}} --port {{port}} --model {model}"
    return (
        *("--backend", "simulated", "--engine-command", command),
        *("--model", model, "--output-dir", str(results), "--max-num-gpus", str(max(SIZES)), "--no-verify", "--log-format", "human"),
        *("--isl", str(ISL_TOKENS), "--osl", str(OSL_TOKENS), "--max-context-length", str(MOST_CONTEXT_TOKENS), "--expected-start-s", "1"),
        *("--ttft", f"{promise.ttft_ms:g}", "--itl", f"{promise.itl_ms:g}", "--attainment", f"{promise.attainment:g}"),
        *("--prefill-interpolation-granularity", str(PREFILL_POINTS), "--decode-interpolation-granularity", str(DECODE_POINTS)),
    )


def picked_sizes(profile: Profile) -> tuple[int, int]:
    """Tensor-parallel sizes of the picked prefill and decode engine."""
    return profile.selected_prefill.tp, profile.selected_decode.tp
