"""A Prometheus server on a free port of this machine (Debian package `prometheus`; only its binaries are needed)."""

import contextlib
import shutil
import socket
import subprocess
import time

import requests
import yaml

PATIENCE_S = 60.0


def wait_for(condition, what):
    """The first true answer of `condition`."""
    deadline = time.monotonic() + PATIENCE_S
    while not (answer := condition()):
        assert time.monotonic() < deadline, f"waited {PATIENCE_S:g} s for {what}"
        time.sleep(0.05)
    return answer


def program(name):
    binary = shutil.which(name)
    assert binary, f"no `{name}` on PATH; apt-get install prometheus (only the binaries are needed)"
    return binary


@contextlib.contextmanager
def prometheus_server(folder, scrape_configs, rule_files=()):
    """The root URL of one that scrapes, and evaluates rules, every second. It is stopped at the end; data and log lie in `folder`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
        "scrape_configs": scrape_configs,
        "rule_files": list(map(str, rule_files)),
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    command = [
        program("prometheus"),
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=warn",
    ]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    url = f"http://127.0.0.1:{port}"

    def answers():
        assert process.poll() is None, (folder / "log").read_text()
        try:
            return requests.get(f"{url}/-/ready", timeout=1).ok
        except requests.RequestException:
            return False

    try:
        wait_for(answers, "Prometheus")
        yield url
    finally:
        process.terminate()
        process.wait(30)
