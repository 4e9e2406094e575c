"""Run the stand-in of NVIDIA's Dynamo operator on the cluster of KUBECONFIG: python tests/e2e/operator --image IMAGE; SIGTERM ends it."""

from __future__ import annotations

import argparse
import json
import logging
import shlex
import signal
import sys
import tempfile
import threading
from pathlib import Path

from stand_in.controller import Controller
from stand_in.install import install, without_conversion
from stand_in.objects import SimulatedEngine
from stand_in.webhook import webhook

from sla_planner.cluster import api
from sla_planner.model.tensor_parallel import over_tensor_parallel
from sla_planner.store.profile_files import read_profile, sample_profile_dir, write_profile_json

SIZES = (1, 2, 4, 8, 16)
FIELD_MANAGER = "dynamo-operator"  # not that of the program under test


def main() -> None:
    parser = argparse.ArgumentParser(prog="operator", description=__doc__)
    parser.add_argument("--image", default="localhost/sla-planner/engine-sim:e2e", help="of frontends and workers [%(default)s]")
    parser.add_argument("--profile", type=Path, help="profile.json that the engines follow [the sample of the package, over TP 1 to 16]")
    parser.add_argument("--engine-args", default="", help='more arguments of every worker, such as "--startup-s 3"')
    parser.add_argument("--namespace", default="", help="look at the graphs of this namespace only [all]")
    flags = parser.parse_args()
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")
    engine = SimulatedEngine(flags.image, flags.profile.read_text() if flags.profile else sample_profile(), tuple(shlex.split(flags.engine_args)))
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    api.FIELD_MANAGER = FIELD_MANAGER
    cluster = api.connect()
    with webhook() as conversion:
        install(cluster, conversion.conversion())
        print("operator stand-in ready", flush=True)
        try:
            Controller(cluster, engine, flags.namespace).run(stop)
        finally:
            without_conversion(cluster)


def sample_profile() -> str:
    """profile.json of the shipped profile, as if its engine ran on more GPUs too."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "profile.json")
        write_profile_json(over_tensor_parallel(read_profile(sample_profile_dir()), SIZES), path)
        return json.dumps(json.loads(path.read_text()), separators=(",", ":"))


if __name__ == "__main__":
    main()
