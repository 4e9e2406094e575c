"""`download-results` as a command: from a mounted volume, and through an access pod as far as that is possible without a cluster."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import yaml
from tests.cluster.api_stand_in import api_stand_in
from tests.cluster.exec_stand_in import exec_stand_in, run_program
from tests.cluster.job_controller import RUNNING, Controller

from sla_planner import cli

PATIENCE_S = 60.0


@pytest.fixture
def volume(tmp_path):
    folder = tmp_path / "volume"
    (folder / "profiling_results/points").mkdir(parents=True)
    (folder / "profiling_results/profile.json").write_text("{}")
    (folder / "profiling_results/points/a.json").write_text("[1]")
    (folder / "profiling_results/engine.yaml").write_text("a: 1")
    return folder


@pytest.fixture
def here(tmp_path):
    return tmp_path / "results"


@pytest.fixture
def download(volume, here, capsys):
    """Runs it on a mounted volume; returns exit code, stdout and stderr."""

    def run(*arguments):
        arguments = ["--volume-path", volume, "--output-dir", here, "--log-format", "human", *arguments]
        code = cli.run(["download-results", *map(str, arguments)])
        return code, *capsys.readouterr()

    return run


def files(folder):
    return sorted(each.relative_to(folder).as_posix() for each in folder.rglob("*") if each.is_file())


class TestMounted:
    def test_all_of_it(self, download, here):
        code, out, _ = download()
        assert (code, out) == (0, f"{here}: 3 files, 9 bytes from /data/profiling_results (3 new), every checksum right\n")
        assert files(here) == ["engine.yaml", "points/a.json", "profile.json"]

    def test_again(self, download, here):
        download("--no-config")
        assert files(here) == ["points/a.json", "profile.json"]
        assert download()[1] == f"{here}: 3 files, 9 bytes from /data/profiling_results (1 new, 2 already here), every checksum right\n"

    def test_what_differs_is_kept_unless_forced(self, download, here):
        here.mkdir()
        (here / "profile.json").write_text("mine")
        code, _, err = download()
        assert code == 2
        assert err.splitlines()[-1].startswith(f"error: {here}/profile.json differs from what is on the volume, nothing was downloaded; take another")
        assert download("--force")[1] == f"{here}: 3 files, 9 bytes from /data/profiling_results (2 new, 1 replaced), every checksum right\n"

    def test_what_is_left_out_is_told(self, download, volume):
        (volume / "profiling_results/out").symlink_to("/etc/passwd")
        code, _, err = download()
        assert code == 0
        assert "WARNING Left out: /data/profiling_results/out: a link that leads out of /data" in err

    def test_a_folder_that_is_not_there(self, download):
        code, _, err = download("--folder", "/data/profiling_result")
        assert code == 2
        assert err.splitlines()[-1] == "error: there is no /data/profiling_result on the volume; /data holds profiling_results/"

    def test_one_object_for_programs(self, download, here):
        told = json.loads(download("--json", "--no-config")[1])
        assert told == {
            "folder": "/data/profiling_results",
            "output_dir": str(here),
            "bytes": 5,
            "new": ["/data/profiling_results/points/a.json", "/data/profiling_results/profile.json"],
            "replaced": [],
            "same": [],
            "left_out": [],
        }

    def test_checksums_are_those_of_sha256sum(self, download, volume, here):
        code, out, err = download("--checksums")
        done = subprocess.run(["sha256sum", "-c", "-"], cwd=volume / "profiling_results", input=out, capture_output=True, text=True)
        assert (code, done.returncode) == (0, 0), done.stderr
        assert done.stdout.splitlines() == ["engine.yaml: OK", "points/a.json: OK", "profile.json: OK"]
        assert "INFO  /data/profiling_results: 3 files, 9 bytes, every one read" in err
        assert not here.exists()

    def test_checksums_for_programs(self, download):
        told = json.loads(download("--checksums", "--json", "--folder", "/data/profiling_results/points")[1])
        (file,) = told["files"]
        assert (file["path"], file["bytes"], len(file["sha256"])) == ("a.json", 3, 64)

    def test_in_a_pod_the_volume_is_where_it_always_is(self, capsys, monkeypatch, volume):
        """A machine's own /data is none, whatever lies there."""
        from sla_planner.stages import volume_access

        monkeypatch.setattr(volume_access, "ROOT", "/proc")  # something that is mounted on any machine
        monkeypatch.setenv("KUBECONFIG", "/no/such/kubeconfig")
        assert cli.run(["download-results"]) == 2
        assert "error: no cluster to talk to" in capsys.readouterr().err
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
        cli.run(["download-results", "--folder", "/data/nothing"])
        err = capsys.readouterr().err
        assert "The volume is mounted at /proc" in err
        assert "error: there is no /data/nothing on the volume" in err

    def test_the_verdict_is_left_for_kubectl_describe(self, download, tmp_path, monkeypatch, here):
        (tmp_path / "termination-log").touch()
        monkeypatch.setenv("TERMINATION_LOG", str(tmp_path / "termination-log"))
        download()
        assert (tmp_path / "termination-log").read_text().startswith(f"{here}: 3 files, 9 bytes from ")


class TestThroughAPod:
    """The API is a stand-in, and the agent a process of this machine; all between is what users run."""

    @pytest.fixture
    def cluster(self):
        with api_stand_in() as stand_in:
            claim = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "dynamo-pvc"}, "status": {"phase": "Bound"}}
            stand_in.put({**claim, "spec": {"accessModes": ["ReadWriteMany"]}})
            with Controller(stand_in, RUNNING):
                yield stand_in

    @pytest.fixture
    def kubeconfig(self, cluster, volume, tmp_path):
        async def agent(connection, command):
            assert command[:4] == ["python", "-m", "sla_planner.volume.agent", "/data"]
            await run_program(connection, [sys.executable, *command[1:3], str(volume)])

        with exec_stand_in(cluster.url) as pods:
            pods.behaviour = agent
            named = {"name": "x", "cluster": {"server": pods.url}, "user": {}, "context": {"cluster": "x", "user": "x", "namespace": "here"}}
            document = {"apiVersion": "v1", "kind": "Config", "current-context": "x"} | {each: [named] for each in ("clusters", "users", "contexts")}
            (tmp_path / "kubeconfig").write_text(yaml.safe_dump(document))
            yield tmp_path / "kubeconfig"

    @pytest.fixture
    def command(self, kubeconfig, here):
        """Starts the command as a user would."""
        started = []

        def start(*arguments):
            environment = os.environ | {"KUBECONFIG": str(kubeconfig), "SLA_PLANNER_LOG_FORMAT": "human"}
            line = [sys.executable, "-m", "sla_planner", "download-results", "--namespace", "here", "--output-dir", str(here), *arguments]
            started.append(subprocess.Popen(line, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
            return started[-1]

        yield start
        for process in started:
            process.kill()
            process.communicate()

    def test_it_comes_and_nothing_is_left(self, command, cluster, here):
        out, err = command().communicate(timeout=PATIENCE_S)
        assert out == f"{here}: 3 files, 9 bytes from /data/profiling_results (3 new), every checksum right\n", err
        assert (cluster.names("jobs"), cluster.names("pods")) == ([], [])
        (job,) = [call.body for call in cluster.calls if (call.verb, call.resource) == ("create", "jobs")]
        assert job["metadata"]["labels"]["app.kubernetes.io/component"] == "download-results"
        (container,) = job["spec"]["template"]["spec"]["containers"]
        assert container["command"] == ["python", "-m", "sla_planner.volume.keeper", "sla-planner-volume", "90"]
        assert container["volumeMounts"][0]["readOnly"] is True

    @pytest.mark.parametrize(
        ("number", "name"),
        [
            (signal.SIGTERM, "SIGTERM"),
            pytest.param(signal.SIGINT, "Ctrl-C", marks=pytest.mark.e2e),
            pytest.param(signal.SIGHUP, "SIGHUP", marks=pytest.mark.e2e),
        ],
    )
    def test_a_signal_leaves_nothing_in_the_cluster_and_the_next_run_goes_on(self, command, cluster, volume, here, number, name):
        with (volume / "profiling_results/zz.bin").open("wb") as file:
            file.truncate(2_000_000_000)  # seconds, and no space
        running = command()
        deadline = time.monotonic() + PATIENCE_S
        part = here / ".zz.bin.part"
        while not (part.exists() and part.stat().st_size):
            assert time.monotonic() < deadline, running.communicate()
            time.sleep(0.01)
        running.send_signal(number)
        _, err = running.communicate(timeout=PATIENCE_S)
        assert running.returncode == 75
        assert err.splitlines()[-1] == f"error: interrupted by {name}; the same command goes on from here"
        assert (cluster.names("jobs"), cluster.names("pods")) == ([], [])
        assert files(here) == [".zz.bin.part", "engine.yaml", "points/a.json", "profile.json"]
        assert not (here / "zz.bin").exists()

        (volume / "profiling_results/zz.bin").write_bytes(bytes(part.stat().st_size + 1))
        out, err = command().communicate(timeout=PATIENCE_S)
        assert out.endswith("(1 new, 3 already here), every checksum right\n"), err
        assert (here / "zz.bin").stat().st_size == (volume / "profiling_results/zz.bin").stat().st_size
