"""What an offline profile costs: the whole process, against one that only imports the library and compiles the first engine (which loads the tables).

    python tests/bench/bench_offline_profile.py [--quick]

Every row is the quickest of several processes, CPU time with all threads and children; wall time depends on who else uses the machine, so the load is
printed, and the ratio to the process that only loads, measured in the same run, is what to look at.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from dataclasses import dataclass

DENSE_S, MIXTURE_S = 5.0, 15.0  # wall, what we allow ourselves on an idle machine
LAUNCHER = """
import resource, subprocess, sys, time
begun = time.monotonic()
code = subprocess.call(sys.argv[1:], stdout=sys.stderr)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(code, used.ru_utime + used.ru_stime, time.monotonic() - begun, used.ru_maxrss / 1024)
"""
LOADING = """
from sla_planner.engines.ai_configurator_library import load, quiet, table_version
with quiet():
    library = load()
    version = table_version(library, {backend!r}, "h200_sxm")
    library.engine.EngineHandle.compile({model!r}, "h200_sxm", {backend!r}, backend_version=version, **{arguments!r})
"""
WHOLE = """
from sla_planner.engines.ai_configurator import OfflineRequest, offline_profile
from sla_planner.model.profile import ParallelMapping
mappings = tuple(ParallelMapping(**sizes) for sizes in {mappings!r})
result = offline_profile(OfflineRequest({model!r}, "h200_sxm", {backend!r}, mappings, mappings))
assert len(result.profile.decode) == len(mappings), result.left_out
"""
TP = tuple({"tp": tp} for tp in (1, 2, 4, 8))
EXPERTS = ({"tp": 8, "ep": 8}, {"dp": 8, "ep": 8}, {"tp": 16, "ep": 16}, {"dp": 16, "ep": 16})


@dataclass(frozen=True, slots=True)
class Case:
    model: str
    backend: str
    mappings: tuple[dict[str, int], ...]
    arguments: dict[str, int]  # of the first mapping, as the library names them
    allowed_s: float

    @property
    def label(self) -> str:
        return f"{self.model.split('/')[1]} {self.backend}, {len(self.mappings)} mappings"

    def script(self, template: str) -> str:
        return template.format(model=self.model, backend=self.backend, mappings=self.mappings, arguments=self.arguments)


CASES = (
    Case("Qwen/Qwen3-32B", "vllm", TP, {"tp_size": 1}, DENSE_S),
    *(Case("deepseek-ai/DeepSeek-V3", backend, EXPERTS, {"tp_size": 8, "moe_ep_size": 8}, MIXTURE_S) for backend in ("vllm", "trtllm", "sglang")),
)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="vllm only, one process each")
    quick = parser.parse_args().quick
    print(f"load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    print("\nA whole offline profile on h200_sxm, process start to exit\n")
    print(
        "| profile | CPU s | wall s | MB | wall / allowed | loading alone CPU s | wall s | CPU / loading alone |\n|---|---|---|---|---|---|---|---|"
    )
    for case in CASES:
        if not quick or case.backend == "vllm":
            print_case(case, 1 if quick else 3)


def print_case(case: Case, processes: int) -> None:
    cpu, wall, megabytes = quickest(case.script(WHOLE), processes)
    loading_cpu, loading_wall, _ = quickest(case.script(LOADING), processes)
    whole = f"{cpu:.2f} | {wall:.2f} | {megabytes:.0f} | {wall / case.allowed_s:.2f}"
    print(f"| {case.label} | {whole} | {loading_cpu:.2f} | {loading_wall:.2f} | {cpu / loading_cpu:.2f} |", flush=True)


def quickest(script: str, processes: int) -> tuple[float, float, float]:
    return min(child(script) for _ in range(processes))


def child(script: str) -> tuple[float, float, float]:
    """CPU seconds, wall seconds and highest resident MB of a Python process. RuntimeError with what it said when it fails.

    Linux counts the memory of whoever starts a process as the process's own at first; so a small one starts it.
    """
    result = subprocess.run([sys.executable, "-c", LAUNCHER, sys.executable, "-c", script], capture_output=True, text=True, check=True)
    code, *used = result.stdout.split()
    if int(code):
        raise RuntimeError(f"the profile ended with {code}: {result.stderr}")
    cpu, wall, megabytes = (float(value) for value in used)
    return cpu, wall, megabytes


if __name__ == "__main__":
    main()
