"""Profiles on disk."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import numpy as np

from sla_planner.model.gates import apply_gates
from sla_planner.model.profile import Profile, Provenance
from sla_planner.model.validation import profile_from_arrays

PREFILL_NPZ = "selected_prefill_interpolation/raw_data.npz"
DECODE_NPZ = "selected_decode_interpolation/raw_data.npz"


def sample_profile_dir() -> Path:
    """The profile that ships with the package: Llama-3.1-8B FP8 on one H200, as Dynamo measured it."""
    return Path(str(resources.files("sla_planner") / "sample" / "h200_llama31_8b_fp8"))


def read_profile(path: Path) -> Profile:
    """The profile at `path`."""
    with np.load(path / PREFILL_NPZ, allow_pickle=False) as prefill, np.load(path / DECODE_NPZ, allow_pickle=False) as decode:
        return apply_gates(profile_from_arrays(dict(prefill), dict(decode), Provenance(source="npz")))
