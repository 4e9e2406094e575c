"""The quick start of the README, as pasted, one shell from the first block to the last; then load, and the workers it brings and loses.

Blocks after `<!-- cluster -->` are run in their order in a copy of the tree as a clone would have it. What a reader chooses is chosen: namespace,
registry, the flags of the sweep, and the time between decisions, so that a test does not take what a day does.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .conftest import Namespace, awaited

ROOT = Path(__file__).parents[2]
CLUSTER_BLOCK = re.compile(r"^<!-- cluster -->\n```bash\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MARK = "-- end of block"
BLOCK_LIMIT_S = 1800.0
CALM_S = 900.0  # down one by one, after a grace period each, and the later the more a jump has just cost
FASTER = " --set interval_s=5 --set 'planner_args=[--startup-s=5, --grace-s=20]' --set prometheus=true --output vllm"

SLOWER = 4  # times, engines and promise
RESULTS = (
    "prefill_performance.png",
    "decode_performance.png",
    "selected_prefill_interpolation/raw_data.npz",
    "selected_prefill_interpolation/prefill_ttft_interpolation.png",
    "selected_prefill_interpolation/prefill_throughput_interpolation.png",
    "selected_decode_interpolation/raw_data.npz",
    "selected_decode_interpolation/decode_tp*.png",
    "profile.json",
    "points/*.json",
    "report.html",
)

PARTS = ("frontend", "planner", "backend", "prefill", "prometheus")
PLANNER = "deployment/vllm-disagg-planner-planner"
PLANNER_SAYS = (
    "New adjustment interval started!",
    r"Observed num_req: \d+\.\d{3} isl: \d+\.\d{3} osl: \d+\.\d{3}",
    r"Observed ttft: \d+\.\d{3}s itl: \d+\.\d{3}s",
    r"Number of prefill workers: [1-9]\d*, number of decode workers: [1-9]\d*",
    r"Scaling (prefill|decode) workers: 1 -> [2-9] \(.+\)",
)

pytestmark = pytest.mark.cluster


class Shell:
    """One bash that stays, with -e as a person would notice an error, in `folder`."""

    def __init__(self, folder: Path, transcript: Path) -> None:
        environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "PYTHONUNBUFFERED": "1"}
        self._process = subprocess.Popen(
            ["bash", "-eu"],
            cwd=folder,
            env=environment,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._transcript = transcript

    def run(self, block: str) -> str:
        """What it printed. Fails with that when a command of it fails."""
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{block}\necho '{MARK}'\n")
        process.stdin.flush()
        alarm = threading.Timer(BLOCK_LIMIT_S, self.close)
        alarm.start()
        lines: list[str] = []
        try:
            for line in process.stdout:
                line, marked, _ = line.partition(MARK)  # the last command may have ended without the end of a line
                lines.append(line)
                if marked:
                    return "".join(lines)
                with self._transcript.open("a") as file:
                    file.write(line)
        finally:
            alarm.cancel()
        pytest.fail(f"the block\n{block}\nended with exit status {process.wait()}:\n{''.join(lines)}", pytrace=False)

    def close(self) -> None:
        """And with it what it has started in the background, such as port-forwards."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()


@pytest.fixture(scope="module")
def engine_args() -> str:
    """Slow enough for a small machine to load more than one."""
    return f"--model-error {(SLOWER - 1) * 100}"


def checked_out(folder: Path) -> Path:
    """`folder` with what Git would check out, and the changes that are not committed yet."""
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    for name in filter(None, files):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    folder = checked_out(tmp_path / "clone")
    job = folder / "jobs" / "profile-sweep" / "job.yaml"
    changes = {
        "            - profile-sweep\n": '            - profile-sweep\n            - --max-num-gpus\n            - "2"\n',
        '"3000"  # tokens of a prompt': '"600"  # tokens of a prompt',  # to fill a batch with long ones takes a slow engine minutes
        '"200"  # promised': f'"{200 * SLOWER}"  # promised',
        '"20"  # promised': f'"{20 * SLOWER}"  # promised',
    }
    job.write_text(changed(job.read_text(), changes))
    return folder


@pytest.fixture
def shell(clone: Path, tmp_path: Path) -> Iterator[Shell]:
    shell = Shell(clone, tmp_path / "transcript")
    yield shell
    shell.close()


def blocks(namespace: str, image: Callable[[str], str]) -> list[str]:
    """The README's, in the words of this cluster."""
    registry, _, rest = image("planner").rpartition("/planner")
    found = CLUSTER_BLOCK.findall((ROOT / "README.md").read_text())
    changes = {
        "NAMESPACE=your-namespace REGISTRY=registry.example.com/team TAG=0.1.0": f"NAMESPACE={namespace} REGISTRY={registry} TAG={rest.lstrip(':')}",
        "nvcr.io/nvidia/ai-dynamo/vllm-runtime:1.6.1": image("engine-sim"),
        "ttft_ms=200 --set itl_ms=20": f"ttft_ms={200 * SLOWER} --set itl_ms={20 * SLOWER}",
        " --output vllm": f" --set prometheus_image={image('prometheus')}{FASTER}",
    }
    return changed("\0".join(found), changes).split("\0")


def ready(namespace: Namespace) -> set[str]:
    """Whose pods run, all of them ready; without what their ReplicaSets add to the names."""
    running = [pod for pod in namespace.get("pods")["items"] if pod["status"]["phase"] == "Running"]
    if not all(status["ready"] for pod in running for status in pod["status"]["containerStatuses"]):
        return set()
    return {pod["metadata"]["name"].rsplit("-", 2)[0] for pod in running}


def changed(text: str, changes: dict[str, str]) -> str:
    for old, new in changes.items():
        assert old in text, f"nothing says {old!r} any more"
        text = text.replace(old, new)
    return text


def test_the_quick_start(namespace: Namespace, dynamo: Path, image: Callable[[str], str], shell: Shell, clone: Path) -> None:
    install, inject, start_sweep, follow, download, deploy, request, watch, metrics, workers, remove = blocks(namespace.name, image)

    shell.run(install)
    assert "dynamo-pvc" in namespace.kubectl("get", "pvc")
    shell.run(inject)
    shell.run(start_sweep)
    log = shell.run(follow)
    assert re.search(r"Suggested prefill TP:\d+ \(TTFT \d+\.\d\d ms, throughput \d+\.\d\d tokens/s/GPU\)", log)
    assert re.search(r"Suggested decode TP:\d+ \(ITL \d+\.\d\d ms, throughput \d+\.\d\d tokens/s/GPU\)", log)
    awaited(lambda: len(namespace.get("pods")["items"]) == 1, lambda: namespace.kubectl("get", "pods"))  # the engines and the access pod go
    (pod,) = namespace.get("pods")["items"]
    assert "Suggested prefill TP:" in pod["status"]["containerStatuses"][0]["state"]["terminated"]["message"]
    assert set(namespace.get("configmap/planner-profile-data")["data"]) >= {"prefill_raw_data.json", "decode_raw_data.json"}

    assert re.search(r"TP1 .*law error", shell.run(download), re.DOTALL)
    missing = [name for name in RESULTS if not list((clone / "results").glob(name))]
    assert not missing
    assert all(file.stat().st_size for name in RESULTS for file in (clone / "results").glob(name))

    shell.run(deploy)
    for part in PARTS:  # the operator takes a moment to make what is waited for next
        namespace.wait(f"deployment/vllm-disagg-planner-{part}", "create")
    answer = shell.run(request)
    assert "data: [DONE]" in answer
    awaited(lambda: ready(namespace) == {f"vllm-disagg-planner-{part}" for part in PARTS}, lambda: namespace.kubectl("get", "pods"))

    seen = shell.run(watch)
    assert re.search(r"requests inside", seen)
    assert re.search(r'"?type"?: "?Ready', seen), seen[-3000:]
    for words in PLANNER_SAYS:
        awaited(lambda words=words: re.search(words, namespace.logs(PLANNER)), lambda words=words: f"{words!r}: {namespace.logs(PLANNER)[-5000:]}")
    events = ("get", "events", "--field-selector", "reportingComponent=slaplanner.io/planner")
    awaited(lambda: "ScalingDecision" in namespace.kubectl(*events), lambda: namespace.kubectl(*events))
    answer = shell.run(metrics)
    assert re.search(r'"__name__":"up".*"value":\[[\d.]+,"1"\]', answer)
    assert re.search(r'dynamo_frontend_requests_total\{.*model="qwen/qwen3-0.6b"', answer, re.IGNORECASE)
    assert "ScalingReplicaSet" in shell.run(workers)
    for role in ("prefill", "backend"):  # the load is over
        namespace.until(f"deployment/vllm-disagg-planner-{role}", lambda found: found["spec"]["replicas"] == 1, CALM_S)

    shell.run(remove)
    kinds = ("deployments", "jobs", "cronjobs", "services", "configmaps", "persistentvolumeclaims", "serviceaccounts", "roles", "rolebindings")
    ours = ",".join((*kinds, "networkpolicies", "leases", "dynamographdeployments"))
    everywhere = {"configmap/kube-root-ca.crt", "serviceaccount/default"}

    def left() -> set[str]:
        return set(namespace.kubectl("get", ours, "--output=name").split()) - everywhere

    awaited(lambda: not left(), left)
