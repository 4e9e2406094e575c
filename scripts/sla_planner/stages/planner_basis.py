"""What the decisions of one target are made with: the profile's engine, the promise and the limits, at so many GPUs a worker.

GPUs of a worker    --prefill-engine-num-gpu, --decode-engine-num-gpu; else the manifest of what is scaled; else the profile
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from sla_planner.cluster.target import Counts
from sla_planner.errors import ProfileError, UsageError
from sla_planner.model.engine import Engine, Interpolation, engine_of
from sla_planner.plan.history import observed_windows
from sla_planner.plan.observation import TrafficWindow
from sla_planner.plan.settings import PlanSettings
from sla_planner.plan.state import fingerprint
from sla_planner.planner_config import PlanConfig, TargetConfig
from sla_planner.store.profile_files import DECODE_NPZ, DECODE_TWIN, PREFILL_NPZ, PREFILL_TWIN, PROFILE_JSON, read_profile
from sla_planner.traffic.trace import read_trace

UNSAID: Counts = (0, 0)
PROFILE_FILES = (PROFILE_JSON, PREFILL_NPZ, DECODE_NPZ, PREFILL_TWIN, DECODE_TWIN)

ProfileStamp = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Basis:
    """`manifest_gpus`: of a prefill and of a decode worker, as what is scaled says; 0 = it does not say."""

    engine: Engine
    settings: PlanSettings
    manifest_gpus: Counts

    def decides_like(self, other: Basis) -> bool:
        """Whether a state of the one means the same to the other."""
        return fingerprint(self.settings, self.engine) == fingerprint(other.settings, other.engine)


def basis_of(config: PlanConfig, manifest_gpus: Counts = UNSAID) -> Basis:
    """Raises `UsageError` for an unusable profile, and for a budget that does not hold the smallest fleet."""
    prefill_gpus = config.prefill_engine_num_gpu or manifest_gpus[0] or None
    decode_gpus = config.decode_engine_num_gpu or manifest_gpus[1] or None
    try:
        engine = _engine(profile_stamp(config), config.interpolation, prefill_gpus, decode_gpus)
    except ProfileError as error:
        raise UsageError(f"{config.whose}the profile {error}", hint="name it with --profile-results-dir") from None
    return Basis(engine, config.plan_settings(engine.prefill.gpus, engine.decode.gpus), manifest_gpus)


def mismatches(config: TargetConfig, manifest_gpus: Counts) -> Iterator[str]:
    """Where the manifest of what is scaled and what else is known of a worker's GPUs disagree; nothing where it does not say."""
    profiled = _engine(profile_stamp(config), config.interpolation, None, None)
    roles = (
        ("prefill", manifest_gpus[0], config.prefill_engine_num_gpu, profiled.prefill.gpus),
        ("decode", manifest_gpus[1], config.decode_engine_num_gpu, profiled.decode.gpus),
    )
    for role, manifest, given, measured in roles:
        if manifest and given and given != manifest:
            yield f"a {role} worker has {manifest} GPUs in its manifest, --{role}-engine-num-gpu says {given}: {given} are counted"
        elif manifest and not given and measured != manifest:
            yield f"a {role} worker has {manifest} GPUs in its manifest, {measured} in the profile: {manifest} are counted; was this engine profiled?"


def warm_up_windows(config: PlanConfig, basis: Basis) -> list[TrafficWindow]:
    """The configured traffic as it would have been observed. Raises `TraceError`."""
    assert config.warmup_trace is not None
    trace = read_trace(config.warmup_trace)
    return list(observed_windows(trace.arrival_s, trace.isl_tokens, trace.osl_tokens, basis.settings.interval_s))


def profile_stamp(config: PlanConfig) -> ProfileStamp:
    """Where the profile is, and which one it is: a sweep may replace it while the planner runs."""
    place = config.profile_results_dir
    times = []
    for file in (place, *(place / name for name in PROFILE_FILES)):
        with suppress(OSError):
            times.append(file.stat().st_mtime_ns if file.is_file() else 0)
    return str(place), max(times, default=0)


@lru_cache(maxsize=64)
def _engine(stamp: ProfileStamp, interpolation: Interpolation, prefill_gpus: int | None, decode_gpus: int | None) -> Engine:
    """Targets that share a profile share the engine."""
    return engine_of(read_profile(Path(stamp[0])), interpolation=interpolation, prefill_gpus=prefill_gpus, decode_gpus=decode_gpus)
