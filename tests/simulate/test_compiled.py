"""The event core as machine code and as Python is the same function: the same bits come out, and a program without numba runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

# A process of its own: what is compiled is decided when `compiled` is imported.
PROGRAM = """
import hashlib, json, sys
if sys.argv[1] == "absent":
    class Absent:
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] in ("numba", "llvmlite"):
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    sys.meta_path.insert(0, Absent())
import numpy as np
from dataclasses import replace
from sla_planner.simulate import compiled, events
from sla_planner.simulate.fleet import SimulatedFleet
from sla_planner.simulate.options import ClusterOptions, PrefixHits, Spread, Startup
from sla_planner.traffic.trace import read_trace, sample_trace_path
from tests.simulate.by_hand import Decode, Prefill, engine

law = engine(prefill=Prefill(lambda isl: 7 + isl / 31, gpus=2), decode=Decode(max_kv_tokens=60_000), c0=5.3, c1=0.07, c2=0.00031)
options = ClusterOptions(
    startup=Startup(mean_s=20, spread=Spread.LOGNORMAL, never_share=0.1, cold_s=15, cold_factor=2.5),
    prefix_hits=PrefixHits(share=0.4, from_s=60), slowness=1.1, kv_transfer_s=0.003, kv_transfer_s_per_token=1e-6, max_gpus=60, seed=5,
)
trace = read_trace(sample_trace_path()).window(700, 900).scaled(1.5, seed=1)
fleet = SimulatedFleet(trace, law, options, prefill=2, decode=2)
for tick in range(1, 20):
    fleet.advance(10.0 * tick)
    fleet.scale(2 + tick * 7 % 5, 2 + tick * 5 % 17)  # beyond the 16 places there are at first
core = fleet.core
digest = hashlib.sha256()
for array in (core.first_token_s, core.finish_s, core.tally, core.cells, core.d_kv, core.p_busy_s, np.array([fleet.gpus_held()])):
    digest.update(array.tobytes())
print(json.dumps({
    "compiles": compiled.COMPILES, "machine_code": bool(getattr(events.advance, "signatures", [])), "requests": len(trace),
    "finished": int(core.cells[events.FINISHED]), "digest": digest.hexdigest(),
}))
"""


def outcome(how: str, **environment: str) -> dict:
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, how],
        cwd=Path(__file__).parents[2],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_with_and_without_numba_the_same_bits():
    compiled, absent, switched_off = outcome("present"), outcome("absent"), outcome("present", NUMBA_DISABLE_JIT="1")
    assert (compiled["compiles"], absent["compiles"]) == (True, False)
    assert (compiled["machine_code"], absent["machine_code"], switched_off["machine_code"]) == (True, False, False)
    assert compiled["requests"] > compiled["finished"] > 1000  # some are still under way: their state counts too
    assert compiled["digest"] == absent["digest"] == switched_off["digest"]
