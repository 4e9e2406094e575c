"""`inject-config` as a command: what is refused before anything is asked of a cluster, and what becomes of the rest."""

from __future__ import annotations

import io
import json
import subprocess
import sys

import pytest

from sla_planner import cli
from sla_planner.stages import inject_config_run

GRAPH = """\
apiVersion: nvidia.com/v1alpha1
kind: DynamoGraphDeployment
metadata:
  name: llama
spec:
  services:
    Frontend: {componentType: frontend}
    decode: {componentType: worker, subComponentType: decode}
    prefill: {componentType: worker, subComponentType: prefill}
"""


@pytest.fixture
def volume(tmp_path):
    (tmp_path / "volume").mkdir()
    return tmp_path / "volume"


@pytest.fixture
def graph(tmp_path):
    (tmp_path / "graph.yaml").write_text(GRAPH)
    return tmp_path / "graph.yaml"


@pytest.fixture
def inject(volume, capsys):
    """Runs it on a mounted volume; returns exit code, stdout, and the error line."""

    def run(*arguments):
        code = cli.run(["inject-config", "--volume-path", str(volume), "--log-format", "human", *map(str, arguments)])
        out, err = capsys.readouterr()
        errors = [line for line in err.splitlines() if line.startswith("error: ")]
        return code, out, "".join(errors)

    return run


def test_a_manifest_lands_where_a_sweep_looks_for_it(inject, volume, graph):
    code, out, _ = inject("--src", graph)
    assert code == 0
    assert out.startswith(f"/data/configs/disagg.yaml: written (DynamoGraphDeployment llama, {len(GRAPH)} bytes, sha256 ")
    assert (volume / "configs/disagg.yaml").read_text() == GRAPH


def test_a_second_time_there_is_nothing_to_do(inject, graph):
    inject("--src", graph)
    code, out, _ = inject("--src", graph)
    assert (code, out.split(" (")[0]) == (0, "/data/configs/disagg.yaml: already there, nothing to do")


def test_another_file_is_kept_unless_forced(inject, volume, graph):
    (volume / "configs").mkdir()
    (volume / "configs/disagg.yaml").write_text("somebody's")
    code, out, error = inject("--src", graph)
    assert (code, out) == (2, "")
    assert error == "error: /data/configs/disagg.yaml is there with other content; add --force to replace it, or choose another --dest"
    assert (volume / "configs/disagg.yaml").read_text() == "somebody's"

    code, out, _ = inject("--src", graph, "--force")
    assert (code, out.split(" (")[0]) == (0, "/data/configs/disagg.yaml: replaced")
    assert (volume / "configs/disagg.yaml").read_text() == GRAPH


def test_one_object_for_programs(inject, graph):
    _, out, _ = inject("--src", graph, "--dest", "/data/a.yaml", "--json")
    told = json.loads(out)
    assert (told["path"], told["became"], told["bytes"], len(told["sha256"])) == ("/data/a.yaml", "new", len(GRAPH), 64)


@pytest.mark.parametrize("backend", ["vllm", "sglang", "trtllm"])
def test_without_a_file_it_is_the_base_of_the_backend(inject, volume, backend):
    code, out, _ = inject("--backend", backend)
    assert code == 0
    assert "DynamoGraphDeployment" in out
    assert "kind: DynamoGraphDeployment" in (volume / "configs/disagg.yaml").read_text()


def test_a_version_without_that_base(inject, monkeypatch):
    monkeypatch.setattr(inject_config_run, "BASE", "nothing.yaml")
    assert inject()[2] == "error: no base manifest of vllm comes with this version; give --src FILE"


def test_from_standard_input(inject, volume, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(GRAPH.encode())))
    assert inject("--src", "-")[0] == 0
    assert (volume / "configs/disagg.yaml").read_text() == GRAPH


def test_any_file_goes_unchecked(inject, volume, tmp_path):
    (tmp_path / "config.json").write_bytes(b"\xff{not JSON")
    code, out, _ = inject("--src", tmp_path / "config.json", "--any-file", "--dest", "/data/model/config.json")
    assert code == 0
    assert out.startswith(f"/data/model/config.json: written (file {tmp_path}/config.json, 10 bytes, sha256 ")
    assert (volume / "model/config.json").read_bytes() == b"\xff{not JSON"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [1", "the manifest is no YAML: "),
        ("kind: Deployment\n", "the manifest holds no DynamoGraphDeployment: Deployment; give a file with exactly one"),
        ("", "the manifest holds no DynamoGraphDeployment: nothing; give a file with exactly one"),
        (f"{GRAPH}---\n{GRAPH}", "the manifest holds 2 DynamoGraphDeployment: "),
    ],
)
def test_what_is_no_graph_is_refused_before_a_cluster_is_asked(capsys, tmp_path, monkeypatch, text, said):
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "no-such-kubeconfig"))
    (tmp_path / "file.yaml").write_text(text)
    assert cli.run(["inject-config", "--src", str(tmp_path / "file.yaml")]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: file {tmp_path}/file.yaml: {said}")
    assert error.endswith("or send the file as it is with --any-file\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--dest", "/etc/x"], "flag --dest: '/etc/x' is not on the volume; all paths there start with /data/"),
        (["--dest", "/data/../etc/x"], "flag --dest: '/data/../etc/x' has .. in it; write the path without"),
        (["--dest", "/data/configs/"], "flag --dest: /data/configs/ names a folder; name the file as well"),
        (["--dest", "/data"], "flag --dest: /data names a folder; name the file as well"),
        (["--any-file"], "flag --any-file: --any-file means nothing without --src; add it"),
        (["--src", "nope.yaml"], "file nope.yaml: No such file or directory; check the path and its permissions"),
        (["--src", "nope.bin", "--any"], "file nope.bin: No such file or directory; check the path and its permissions"),
        (["--namespace", "Not_A_Name"], "flag --namespace: 'Not_A_Name' is not allowed; use a name as Kubernetes has them"),
        (["--toleration", "a:Sometimes"], "flag --toleration: 'a:Sometimes' is no toleration; write KEY, KEY=VALUE, KEY:EFFECT or KEY=VALUE:EFFECT"),
        (
            ["--volume-path", "/no"],
            "--volume-path /no: no such folder; mount the volume there, or leave the flag out for an access pod",
        ),
    ],
)
def test_what_is_asked_for_wrongly(inject, arguments, said):
    assert inject(*arguments)[::2] == (2, f"error: {said}")


def test_a_manifest_that_is_no_text(inject, tmp_path):
    (tmp_path / "graph.yaml").write_bytes(b"kind: \xff")
    assert inject("--src", tmp_path / "graph.yaml")[2] == f"error: {tmp_path}/graph.yaml: byte 6 is not UTF-8; save the file as UTF-8".replace(
        "error: ", "error: file "
    )


def test_a_mistaken_source_is_noticed(inject, tmp_path):
    with (tmp_path / "weights").open("wb") as file:
        file.truncate(10_000_001)
    said = f"error: file {tmp_path}/weights is larger than 10,000,000 bytes, which no manifest is; send a large file with --src FILE --any-file"
    assert inject("--src", tmp_path / "weights")[2] == said


def test_without_a_cluster_and_without_a_volume(capsys, graph, monkeypatch, tmp_path):
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "no-such-kubeconfig"))
    assert cli.run(["inject-config", "--src", str(graph)]) == 2
    assert "error: no cluster to talk to: " in capsys.readouterr().err


@pytest.mark.parametrize("stage", ["inject_config_run", "download_results_run"])
def test_the_volume_tools_need_no_numpy(stage):
    """Their image has none."""
    code = (
        f"import sys, sla_planner.stages.{stage}, sla_planner.cluster.access_pod; print(sorted({{'numpy', 'scipy', 'aiohttp'}} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
