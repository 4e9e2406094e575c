"""The planner as a user runs it: processes, signals, files, HTTP; intervals of a fraction of a second."""

import contextlib
import itertools
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

import pytest

from sla_planner import __version__
from sla_planner.cli import run
from sla_planner.metrics.exporter import Exporter
from sla_planner.metrics.scrape import ScrapeSource
from sla_planner.plan.record import Carried, Tick
from sla_planner.planner_config import PlannerConfig, TargetConfig
from sla_planner.store.profile_files import sample_profile_dir

PROGRAM = [sys.executable, "-m", "sla_planner"]
PROFILE = ["--profile-results-dir", sample_profile_dir()]
PATIENCE_S = 60.0
SHAPES = {
    "start": re.compile(r"New adjustment interval started!"),
    "unknown": re.compile(r"Traffic is unknown: .+"),
    "load": re.compile(r"Observed num_req: \d+\.\d{3} isl: (\d+\.\d{3}|idle) osl: (\d+\.\d{3}|idle)"),
    "latency": re.compile(r"Observed ttft: (\d+\.\d{3}s|idle) itl: (\d+\.\d{3}s|idle)"),
    "exceeding": re.compile(r"Current (TTFT|ITL): \d+ms, Target: \d+ms \(exceeding SLA\)"),
    "workers": re.compile(r"Number of prefill workers: \d+, number of decode workers: \d+( \(\d+ prefill and \d+ decode starting\))?"),
    "correction": re.compile(r"Correction factors: TTFT: \d+\.\d{3}, ITL: \d+\.\d{3}"),
    "predicted": re.compile(r"Predicted load: num_req=\d+\.\d{3}, isl=\d+\.\d{3}, osl=\d+\.\d{3}( \(.+\))?"),
    "role": re.compile(r"((Scaling|Would be scaling) (prefill|decode) workers: \d+ -> \d+|Keeping \d+ (prefill|decode) workers?) \(.+\)"),
    "outcome": re.compile(
        r"No scaling needed \(COUNTS\)|Decision \d+ written \(COUNTS\)|Nothing decided, holding COUNTS|Not asked for COUNTS: --no-operation"
        r"|Not asking for COUNTS: decision \d+ is not acknowledged yet, .+".replace("COUNTS", r"prefill=\d+, decode=\d+")
    ),
    "verdict": re.compile(r"\d+% of (prompts|requests) .+"),
}
ORDER = re.compile(r"start (unknown|load latency (exceeding ){0,2}) ?workers (correction predicted )?(verdict )*role role outcome")


def awaited(condition, what):
    """The first true answer of `condition`, asked again and again."""
    give_up_s = time.monotonic() + PATIENCE_S
    while not (answer := condition()):
        assert time.monotonic() < give_up_s, f"waited in vain for {what()}"
        time.sleep(0.01)
    return answer


class Started:
    """A process whose lines can be waited for."""

    def __init__(self, args, stream="stderr", **environment):
        pipes = {stream: subprocess.PIPE, ({"stdout", "stderr"} - {stream}).pop(): subprocess.DEVNULL}
        self.process = subprocess.Popen([*PROGRAM, *map(str, args)], text=True, env=os.environ | environment, **pipes)
        self.lines = []
        self._reader = threading.Thread(target=self._read, args=(getattr(self.process, stream),), daemon=True)
        self._reader.start()

    def _read(self, pipe):
        with pipe:
            for line in pipe:
                self.lines.append(line.rstrip("\n"))

    def line(self, pattern, after=0):
        """The first line from the `after`th on that `pattern` is found in."""

        def found():
            lines = self.lines[after:]
            match = next((line for line in lines if re.search(pattern, line)), None)
            assert match or self.process.poll() is None, f"ended without {pattern!r}:\n" + "\n".join(self.lines)
            return match

        return awaited(found, lambda: f"{pattern!r} in\n" + "\n".join(self.lines[-30:]))

    def count(self, pattern):
        return sum(bool(re.search(pattern, line)) for line in self.lines)

    def end(self, number=signal.SIGTERM):
        """The exit code after a signal."""
        self.process.send_signal(number)
        code = self.process.wait(PATIENCE_S)
        self._reader.join(PATIENCE_S)
        return code

    def kill(self):
        self.end(signal.SIGKILL)


@pytest.fixture
def start():
    with started_processes() as begin:
        yield begin


@contextlib.contextmanager
def started_processes():
    running = []

    def begin(*args, **options):
        running.append(Started(args, **options))
        return running[-1]

    try:
        yield begin
    finally:
        for each in running:
            each.kill()


def engine_url(begin, *flags):
    line = begin("engine-sim", "--port", 0, *flags, stream="stdout").line("ready on")
    return re.search(r"http://\S+", line)[0]


@pytest.fixture(scope="module")
def engine():
    """The metrics page of an engine that no test scales, after its first request: before that, a frontend has no series to show."""
    with started_processes() as begin:
        yield served_one(engine_url(begin)) + "/metrics"


def served_one(url):
    body = {"prompt": [1] * 200, "max_tokens": 2, "model": "simulated"}
    request = urllib.request.Request(f"{url}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        answer.read()
    return url


@pytest.fixture
def free_port():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def http(port, path):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def document(path):
    """A file that must be strict JSON at any moment; None when there is none."""
    try:
        return json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    except FileNotFoundError:
        return None


def intervals(messages):
    """The kinds of lines of every whole tick."""
    kinds = [next((kind for kind, shape in SHAPES.items() if shape.fullmatch(message)), message) for message in messages]
    starts = [index for index, kind in enumerate(kinds) if kind == "start"]
    return [" ".join(kinds[begin:end]) for begin, end in itertools.pairwise(starts)]


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    """One run: a lull, two seconds of 3000-token prompts that need several prefill workers, a lull."""
    folder = tmp_path_factory.mktemp("story")
    fleet, state, trace = folder / "fleet.json", folder / "memory" / "state.json", folder / "trace.csv"
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    trace.write_text("arrival_s,isl,osl\n" + "".join(f"{index / 50},3000,20\n" for index in range(100)))
    with started_processes() as begin:
        url = served_one(engine_url(begin, "--virtual-target", f"file:{fleet}"))
        flags = ["--scrape-url", f"{url}/metrics", "--virtual-target", f"file:{fleet}", "--state", state, "--prometheus-port", port, *PROFILE]
        quick = ["--adjustment-interval", 0.3, "--startup-s", 0.3, "--grace-s", 0.5, "--attainment", 0.9]  # of a history of seconds, a burst is much
        planner = begin("planner", *flags, *quick, "--log-format", "json", SLA_PLANNER_ITL="60")
        planner.line("Observed num_req")
        subprocess.run([*PROGRAM, "load-test", "--url", url, "--trace", trace], check=True, capture_output=True, timeout=PATIENCE_S)
        planner.line(r"Scaling prefill workers: \d+ -> [2-9]")
        planner.line(r"Scaling prefill workers: \d+ -> 1 ")
        planner.line(r"Number of prefill workers: 1,", after=len(planner.lines))
        planner.line("New adjustment", after=len(planner.lines))  # the tick before is on its pages now
        pages = {path: http(port, path) for path in ("/metrics", "/healthz", "/readyz", "/")}
        with urllib.request.urlopen(f"{url}/sim/state", timeout=10) as answer:
            workers = json.load(answer)["workers"]
        yield {
            "code": planner.end(),
            "records": [json.loads(line) for line in planner.lines],
            "state": document(state),
            "files": {each.name for each in (*folder.iterdir(), *state.parent.iterdir())},
            "fleet": document(fleet),
            "pages": pages,
            "workers": workers,
        }


class TestALoadedFleet:
    def test_the_start_says_the_version_and_every_setting_with_its_source(self, story):
        process, target = (record["message"] for record in story["records"][:2])
        assert process.startswith(f"sla-planner {__version__}: once=false (default), ")
        assert target.startswith("targets[0]: name=default (default), ttft=500 (default), itl=60 (env SLA_PLANNER_ITL), ")
        assert "adjustment_interval=0.3 (flag --adjustment-interval)" in target
        for line, model in ((process, PlannerConfig), (target, TargetConfig)):
            for name in model.model_fields:
                assert name == "targets" or re.search(rf"\b{name}=.+? \((default|flag --[a-z-]+|env [A-Z_]+)\)", line), name

    def test_every_tick_says_the_same_things_in_the_same_order(self, story):
        ticks = intervals([record["message"] for record in story["records"]])
        assert len(ticks) > 5
        assert [tick for tick in ticks if not ORDER.fullmatch(tick)] == []

    def test_every_line_is_an_object_with_time_level_and_target(self, story):
        assert all(list(record)[:3] == ["time", "level", "message"] for record in story["records"])
        assert {record["target"] for record in story["records"][2:-1]} == {"default"}
        assert {record["level"] for record in story["records"]} <= {"INFO", "WARNING"}

    def test_the_last_line_of_a_tick_is_the_tick(self, story):
        ticks = [record["tick"] for record in story["records"] if "tick" in record]
        assert len(ticks) == sum(record["message"] == "New adjustment interval started!" for record in story["records"])
        for tick in ticks:
            assert Tick.from_json(tick).to_json() == tick
        hours = [tick["gpu_hours"] for tick in ticks]
        assert hours == sorted(hours)
        assert hours[-1] > 0

    def test_workers_went_up_under_load_and_down_when_it_ended(self, story):
        decisions = [Tick.from_json(record["tick"]) for record in story["records"] if "tick" in record]
        ready = [tick.observation.prefill.ready for tick in decisions]
        assert max(ready) >= 2
        assert ready[-1] == 1
        assert {tick.carried for tick in decisions} >= {Carried.APPLIED, Carried.NOTHING}
        assert all(tick.decision.decode.desired == 1 for tick in decisions)
        assert [worker["state"] for worker in story["workers"]["prefill"]].count("ready") == 1
        assert (story["fleet"]["num_prefill_workers"], story["fleet"]["num_decode_workers"]) == (1, 1)
        assert story["fleet"]["scaled_decision_id"] == story["fleet"]["decision_id"] >= 2

    def test_a_signal_ends_it_with_nothing_half_written(self, story):
        assert story["code"] == 0
        assert story["records"][-1]["message"] == "Stopped"
        assert story["files"] == {"fleet.json", "fleet.json.lock", "memory", "state.json", "trace.csv"}
        last = [record["tick"] for record in story["records"] if "tick" in record][-1]
        assert story["state"]["version"] == __version__
        assert story["state"]["plan"]["last_at_s"] == last["decision"]["at_s"]
        assert story["state"]["plan"]["gpu_seconds"] / 3600 == last["gpu_hours"]

    def test_prometheus_and_the_kubelet_are_answered(self, story):
        status, metrics = story["pages"]["/metrics"]
        assert status == 200
        assert 'slaplanner_actual_replicas{role="prefill",state="ready",target="default"} 1.0' in metrics
        for name in ("slaplanner_desired_replicas", "slaplanner_observed_request_rate_rps", "slaplanner_gpu_hours_total", "slaplanner_ticks_total"):
            assert re.search(rf'^{name}{{.*target="default".*}} ', metrics, re.MULTILINE), name
        assert story["pages"]["/healthz"] == (200, "ok\n")
        assert story["pages"]["/readyz"] == (200, "ok\n")
        assert story["pages"]["/"][0] == 404


class TestOnce:
    def test_the_second_run_knows_the_traffic_and_exit_codes_say_so(self, engine, tmp_path):
        flags = ["--scrape-url", engine, "--virtual-target", f"file:{tmp_path / 'fleet.json'}", "--state", tmp_path / "state", "--once", *PROFILE]
        command = [*PROGRAM, "planner", *map(str, flags), "--log-format", "human"]
        codes, texts = [], []
        for _ in range(2):
            done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
            codes.append(done.returncode)
            texts.append(done.stderr)
        assert codes == [0, 0], texts
        assert "Traffic is unknown: first reading: a window needs two" in texts[0]
        assert "Observed num_req: 0.000 isl: idle osl: idle" in texts[1]
        assert document(tmp_path / "fleet.json")["num_prefill_workers"] == 1
        assert set(document(tmp_path / "state" / "default.json")) == {"version", "target", "manifest_gpus", "asked", "plan", "readings", "status"}

    def test_one_target_that_comes_through_is_enough_and_none_is_exit_4(self, in_process, engine, tmp_path):
        config = tmp_path / "planner.yaml"
        targets = [{"name": "dead", "scrape_url": ["http://127.0.0.1:9/metrics"], "virtual_target": f"file:{tmp_path / 'dead.json'}"}]
        targets += [{"name": "alive", "scrape_url": [engine], "virtual_target": f"file:{tmp_path / 'alive.json'}"}]
        config.write_text(json.dumps({"targets": targets, "profile_results_dir": str(sample_profile_dir())}))
        flags = ["--config", config, "--once", "--state", tmp_path / "state"]
        assert in_process(*flags) == (0, "")
        assert in_process(*flags) == (0, "")
        targets[1]["scrape_url"] = ["http://127.0.0.1:9/metrics"]
        config.write_text(json.dumps({"targets": targets, "profile_results_dir": str(sample_profile_dir())}))
        code, error = in_process(*flags)
        assert code == 4
        assert error.startswith("error: target dead: traffic is unknown: http://127.0.0.1:9/metrics: no answer (ConnectionError); 1 more")

    def test_metrics_that_answer_and_tell_nothing_are_held_on_and_are_no_failure(self, in_process, engine, tmp_path):
        place = ["--virtual-target", f"file:{tmp_path / 'fleet.json'}", "--state", tmp_path / "state.json", "--once"]
        for _ in range(2):  # the page is a Dynamo frontend's, and has no series of vLLM's
            assert in_process("--scrape-url", engine, "--metrics", "vllm", *place, *PROFILE) == (0, "")
        (available,) = [each for each in document(tmp_path / "state.json")["status"]["conditions"] if each["type"] == "MetricsAvailable"]
        assert available["status"] == "False"
        assert "no series vllm:" in available["message"]

    def test_a_promise_that_cannot_be_kept_is_exit_3_and_a_best_effort(self, in_process, engine, tmp_path):
        place = [
            "--scrape-url",
            engine,
            "--virtual-target",
            f"file:{tmp_path / 'fleet.json'}",
            "--state",
            tmp_path / "state.json",
            "--once",
            *PROFILE,
        ]
        assert in_process(*place, "--itl", 3) == (0, "")
        load = [*PROGRAM, "load-test", "--url", engine.removesuffix("/metrics"), "--scenario", "long-context"]
        subprocess.run(load, check=True, capture_output=True, timeout=PATIENCE_S)
        code, error = in_process(*place, "--itl", 3)
        assert code == 3
        assert re.fullmatch(r"error: target default: ITL 3 ms cannot be met: .+ ms a token; the decision is a best effort; promise less\n", error)
        assert document(tmp_path / "fleet.json")["num_decode_workers"] >= 1

    def test_a_fault_of_ours_is_a_lost_interval_with_its_traceback(self, monkeypatch, capsys, tmp_path, free_port):
        failed = []
        monkeypatch.setattr(logging.root, "handlers", [])
        monkeypatch.setattr(Exporter, "fail", lambda _, target: failed.append(target))
        monkeypatch.setattr(ScrapeSource, "observe", lambda *_: 1 / 0)
        flags = ["--scrape-url", "http://127.0.0.1:9/", "--virtual-target", f"file:{tmp_path / 'fleet.json'}", "--state", tmp_path / "state.json"]
        code = run(["planner", *map(str, [*flags, *PROFILE, "--once", "--log-format", "json", "--prometheus-port", free_port])])
        *records, last = capsys.readouterr().err.splitlines()
        assert (code, last, failed) == (4, "error: the interval is lost, see the log; run it again", ["default"])
        assert "ZeroDivisionError" in json.loads(records[-1])["traceback"]
        assert not (tmp_path / "fleet.json").exists()

    def test_a_target_that_only_a_person_can_repair_is_exit_2(self, in_process, engine, tmp_path):
        flags = [
            "--scrape-url",
            engine,
            "--virtual-target",
            f"file:{tmp_path / 'fleet.json'}",
            "--state",
            tmp_path / "state.json",
            "--once",
            *PROFILE,
        ]
        (tmp_path / "fleet.json").write_text("{")
        for _ in range(2):
            code, error = in_process(*flags)
            assert code == 2
            assert error.startswith(f"error: {tmp_path / 'fleet.json'} is not JSON")


@pytest.fixture
def in_process(monkeypatch, capsys):
    """Exit code and last line, run in this process: for what is refused or over at once."""

    def call(*flags):
        monkeypatch.setattr(logging.root, "handlers", [])
        monkeypatch.setattr(logging.root, "level", logging.root.level)
        code = run(["planner", *map(str, flags)])
        lines = [line for line in capsys.readouterr().err.splitlines(keepends=True) if not line.startswith("{")]
        return code, "".join(lines)

    yield call
    logging.captureWarnings(False)


class TestRefusals:
    """One line that says what is wrong, and exit code 2, before any target is touched."""

    @pytest.mark.parametrize(
        ("flags", "told"),
        [
            (["--profile-results-dir", "absent"], "absent: "),
            (["--profile-results-dir", "planner.yaml"], "planner.yaml: "),
            (["--profile-results-dir", "."], "no "),
            (
                ["--environment", "kubernetes"],
                "target default: nothing to scale; give --graph-deployment NAME, or both --prefill-target and --decode-target (KIND/NAME)",
            ),
            (["--environment", "kubernetes", "--prefill-target", "deployment/a"], "only one role to scale; give --graph-deployment NAME, or both"),
            (["--prefill-target", "a"], "'a' is no KIND/NAME; use deployment/NAME, "),
            (["--prefill-target", "dgd/a"], "'dgd/a' has no scale of its own; use --graph-deployment a"),
            (["--graph-deployment", "A"], "'A' is not allowed; use a name of Kubernetes: lower case letters, digits, - and ."),
            (["--state", "configmap:"], "'configmap:' is not allowed; use a path, or configmap:NAME"),
            (["--once", "--lease", "planner"], "--lease is for a planner that goes on; leave it out; a CronJob has concurrencyPolicy: Forbid"),
            (
                ["--environment", "kubernetes", "--prefill-target", "deploy/a", "--decode-target", "deployments.apps/a"],
                "both roles are deploy/a; give each role an object of its own",
            ),
            (["--load-predictor", "prophet"], "pip install"),
            (["--virtual-target", "etcd://127.0.0.1:1"], "keys in etcd need a namespace; give --namespace"),
            (["--virtual-target", "fleet.json"], "'fleet.json' is not allowed; use file:PATH or etcd://HOST:PORT"),
            (["--prometheus-url", "http://127.0.0.1:9"], "both a Prometheus and pages to scrape are given"),
            (["--scrape-url", "localhost:8000"], "'localhost:8000' is not allowed"),
            (["--adjustment-interval", "0"], "0"),
            (["--ttft", "0.5"], "0.5 ms looks like seconds; use 500 for 0.5 s"),
            (["--max-gpu-budget", "1"], "a budget of 1 GPUs does not hold the smallest fleet"),
            (["--once"], "--once forgets the pages it read, and a window needs two readings; add --state FILE, or read from --prometheus-url"),
            (["--state", "planner.yaml/state"], "state folder planner.yaml/state cannot be made: Not a directory"),
            (["--config", "absent.yaml"], "absent.yaml"),
            (["--no-such-flag"], "No such option"),
        ],
        ids=lambda value: " ".join(value) if isinstance(value, list) else "",
    )
    def test_what_a_user_got_wrong_is_one_line(self, in_process, tmp_path, monkeypatch, flags, told):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "planner.yaml").write_text("ttft: 500\n")
        base = {"--scrape-url": "http://127.0.0.1:9/metrics", "--virtual-target": "file:fleet.json", "--profile-results-dir": sample_profile_dir()}
        given = [word for flag, value in base.items() if flag not in flags for word in (flag, value)]
        code, error = in_process(*given, *flags)
        assert code == 2
        assert error.startswith("error: ")
        assert told in error
        assert error.count("\n") == 1
        assert len(error) < 300
        assert not (tmp_path / "fleet.json").exists()

    def test_a_port_that_is_taken(self, in_process, tmp_path):
        with socket.create_server(("0.0.0.0", 0)) as holder:
            port = holder.getsockname()[1]
            flags = [
                "--scrape-url",
                "http://127.0.0.1:9/",
                "--virtual-target",
                f"file:{tmp_path / 'fleet.json'}",
                "--prometheus-port",
                port,
                *PROFILE,
            ]
            code, error = in_process(*flags)
        assert (code, error) == (2, f"error: cannot listen on 0.0.0.0:{port} (Address already in use); choose another --prometheus-port\n")

    def test_one_state_file_for_two_targets(self, in_process, tmp_path):
        targets = [{"name": name, "virtual_target": f"file:{tmp_path / name}"} for name in ("a", "b")]
        shared = {"targets": targets, "scrape_url": ["http://127.0.0.1:9/"], "profile_results_dir": str(sample_profile_dir())}
        (tmp_path / "planner.yaml").write_text(json.dumps(shared))
        code, error = in_process("--config", tmp_path / "planner.yaml", "--state", tmp_path / "state.json")
        assert code == 2
        assert (
            error
            == f"error: state {tmp_path / 'state.json'} is one file for several targets; name a folder; each target gets a file of its own in it\n"
        )


def test_for_people_ctrl_c_ends_it_and_no_operation_touches_nothing(start, engine, tmp_path):
    flags = ["--scrape-url", engine, "--virtual-target", f"file:{tmp_path / 'fleet.json'}", "--adjustment-interval", 0.2, *PROFILE]
    planner = start("planner", *flags, "--no-operation", "--log-format", "human")
    seen = planner.line("Observed num_req: 0.000 isl: idle osl: idle")
    planner.line("New adjustment", after=planner.lines.index(seen))
    assert planner.end(signal.SIGINT) == 0
    parts = [re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ (INFO |WARNING) (.+)", line) for line in planner.lines]
    ticks = intervals([part[2] for part in parts])
    assert ticks
    assert [tick for tick in ticks if not ORDER.fullmatch(tick)] == []
    assert planner.count(r"Would be scaling prefill workers: 0 -> 1 \(") == planner.count("Not asked for prefill=1, decode=1: --no-operation") > 1
    assert planner.lines[-1].endswith("INFO  Stopped")
    assert list(tmp_path.iterdir()) == []


@contextlib.contextmanager
def server(answer):
    """Accepts connections and hands each to `answer` in a thread; yields the URL."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept():
            with contextlib.suppress(OSError):
                while True:
                    threading.Thread(target=answer, args=(listener.accept()[0],), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/metrics"
        listener.shutdown(socket.SHUT_RDWR)


def test_targets_that_fail_neither_delay_nor_stop_the_healthy_one(start, engine, tmp_path):
    over = threading.Event()

    def silent(connection):
        with connection:
            over.wait(60)

    def trickling(connection):
        with connection, contextlib.suppress(OSError):
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
            while not over.wait(0.2):
                connection.sendall(b"#")

    with server(silent) as hangs, server(trickling) as trickles:
        urls = {"healthy": engine, "corrupt": engine, "dead": "http://127.0.0.1:9/metrics", "hangs": hangs, "trickles": trickles}
        targets = [{"name": name, "scrape_url": [url], "virtual_target": f"file:{tmp_path / name}.json"} for name, url in urls.items()]
        config = {"targets": targets, "adjustment_interval": 0.2, "profile_results_dir": str(sample_profile_dir()), "log_format": "human"}
        (tmp_path / "planner.yaml").write_text(json.dumps(config | {"state": str(tmp_path / "state")}))
        (tmp_path / "corrupt.json").write_text("{")
        planner = start("planner", "--config", tmp_path / "planner.yaml")
        planner.line(rf"\[hangs\] Traffic is unknown: {hangs}: no answer within 2 s")
        assert planner.count(r"\[healthy\] Observed num_req") > planner.count(r"\[hangs\] New adjustment") == 1
        planner.line(r"\[dead\] Traffic is unknown: http://127.0.0.1:9/metrics: no answer \(ConnectionError\)")
        planner.line(r"\[corrupt\] The number of workers is unknown: .*corrupt.json is not JSON")
        planner.line(r"\[corrupt\] Nothing decided: the number of workers is unknown")
        planner.line(r"\[healthy\] No scaling needed|\[healthy\] Not asking", after=len(planner.lines))
        assert planner.count(r"\[trickles\] New adjustment") >= 1
        assert planner.end() == 0
        over.set()
    assert document(tmp_path / "healthy.json")["num_prefill_workers"] == 1
    assert (tmp_path / "corrupt.json").read_text() == "{"
    assert document(tmp_path / "state" / "healthy.json")["target"] == "healthy"
    assert planner.count("Traceback") == 0


def test_killed_at_any_moment_the_next_one_goes_on(start, engine, tmp_path):
    state = tmp_path / "state.json"
    flags = ["--scrape-url", engine, "--virtual-target", f"file:{tmp_path / 'fleet.json'}", "--state", state, "--adjustment-interval", 0.01, *PROFILE]
    charged = 0.0
    for _ in range(2):
        planner = start("planner", *flags, "--log-format", "human")
        planner.line("No scaling needed")
        planner.kill()
        assert planner.count("afresh") == 0
        before, charged = charged, document(state)["plan"]["gpu_seconds"]
        assert charged > before
        assert document(tmp_path / "fleet.json")["decision_id"] == 0
    assert not state.with_name("state.json.bad").exists()


@pytest.mark.e2e
def test_etcd_from_end_to_end(start, etcd):
    place = ["--virtual-target", etcd.url, "--namespace", "planner-stage"]
    url = served_one(engine_url(start, *place, "--decode-workers", 2))
    planner = start("planner", "--scrape-url", f"{url}/metrics", *place, "--min-endpoint", 2, "--adjustment-interval", 0.3, *PROFILE)
    planner.line("No scaling needed .prefill=2, decode=2")
    assert planner.line("Decision 0 written .prefill=2, decode=2")
    assert planner.end() == 0
    lines = etcd.ctl("get", "--prefix", "v1/planner-stage/planner/").split()
    values = dict(zip(lines[::2], map(int, lines[1::2]), strict=True))
    names = ("num_prefill_workers", "num_decode_workers", "decision_id")
    assert [values[f"v1/planner-stage/planner/{name}"] for name in names] == [2, 2, 0]
    with urllib.request.urlopen(f"{url}/sim/state", timeout=10) as answer:
        assert len(json.load(answer)["workers"]["prefill"]) == 2
