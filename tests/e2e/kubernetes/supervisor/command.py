"""The command line."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from supervisor import binaries, cgroups, control, images, layout, namespaces, node, packages
from supervisor.cluster import Cluster, Wish, save_logs
from supervisor.errors import ClusterError

FAILED = 125  # ours, as opposed to the exit status of a command that was run
HERE = Path(__file__).resolve().parent.parent / "cluster"


def main() -> int:
    arguments = _parser().parse_args()
    try:
        if os.geteuid() != 0:
            raise ClusterError("it needs root for namespaces, mounts and containers: start it with sudo")
        status: int = arguments.action(arguments)
    except ClusterError as error:
        print(f"cluster: {error}", file=sys.stderr)
        return FAILED
    return status


def _parser() -> argparse.ArgumentParser:
    description = "A real Kubernetes of one node in private namespaces. Exit status 125: it failed itself."
    parser = argparse.ArgumentParser(prog="cluster", description=description)
    actions = parser.add_subparsers(metavar="ACTION", required=True)

    def add(name: str, action: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        sub = actions.add_parser(name, help=text, description=text)
        sub.set_defaults(action=action)
        return sub

    add("install", _install, "install what it needs of Debian's packages; starts no service")
    add("build", _build, "build Kubernetes and CoreDNS, if they are not in the cache")
    add("base", _base, f"make the image {images.BASE_IMAGE}, Debian with Python, if it is not in the cache; prints its archive")
    build = add("images", _images, f"run images/build.py on {images.BASE_IMAGE} and the store in the cache; prints the folder with the archives")
    build.add_argument("arguments", nargs=argparse.REMAINDER, metavar="ARG", help="for images/build.py")
    add("buildah", _buildah, "run buildah on the store in the cache").add_argument("command", nargs=argparse.REMAINDER, metavar="ARG")
    run = add("run", _run, "bring a cluster up, run a command in it with KUBECONFIG set, take all down; exits with the command's status")
    up = add("up", _up, "bring a cluster up and keep it until this process is ended")
    for sub in (run, up):
        sub.add_argument("--load", action="append", default=[], type=Path, metavar="ARCHIVE", help="an image archive for the node; repeatable")
        sub.add_argument("--gpus", type=int, default=8, metavar="N", help="nvidia.com/gpu of the node (default: 8)")
        sub.add_argument("--gpu-product", default="NVIDIA-H200", metavar="NAME", help="their label on the node (default: NVIDIA-H200)")
    enter = add("enter", _enter, "run a command in the cluster of a running `up`")
    for sub in (run, enter):
        sub.add_argument("command", nargs="+", metavar="COMMAND", help="after --")
    add("load", _load, "import image archives (OCI or Docker) into the node").add_argument("archives", nargs="+", type=Path, metavar="ARCHIVE")
    for order, text in (("stop", "kill a part of the cluster"), ("start", "start a part again, on the same data; returns when it works")):
        add(order, _order, f"{text}: apiserver, etcd, kubelet, …; see status").add_argument("part")
    add("status", _order, "list the parts")
    return parser


def _install(_arguments: argparse.Namespace) -> int:
    packages.install()
    return 0


def _build(_arguments: argparse.Namespace) -> int:
    binaries.built()
    images.pause_archive()
    return 0


def _base(_arguments: argparse.Namespace) -> int:
    print(images.base_archive())
    return 0


def _images(arguments: argparse.Namespace) -> int:
    print(images.build(arguments.arguments))
    return 0


def _buildah(arguments: argparse.Namespace) -> int:
    return subprocess.run([*images.buildah(), *arguments.command], check=False).returncode


def _run(arguments: argparse.Namespace) -> int:
    artifacts = Path(os.environ.get("E2E_ARTIFACTS", "e2e-artifacts")).absolute()

    def body(cluster: Cluster) -> int:
        status = FAILED
        try:
            cluster.bring_up(arguments.load)
            status = cluster.run(arguments.command)
        finally:
            if status != 0:
                save_logs(artifacts / "cluster")
        return status

    return _contained(arguments, body, started=lambda _init: None)


def _up(arguments: argparse.Namespace) -> int:
    with _state_file().open("a+") as state:
        try:
            fcntl.flock(state, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ClusterError("another `up` runs already: `enter` that one, or end it") from None

        def started(init: int) -> None:
            state.truncate(0)
            state.write(f"{init}\n")
            state.flush()

        def body(cluster: Cluster) -> int:
            cluster.bring_up(arguments.load)
            print(f"up; in another shell: {HERE} enter -- kubectl get nodes", flush=True)
            cluster.keep()
            return 0

        return _contained(arguments, body, started)


def _contained(arguments: argparse.Namespace, body: Callable[[Cluster], int], started: Callable[[int], None]) -> int:
    cgroup = cgroups.make()
    wish = Wish(binaries.built(), images.pause_archive(), cgroup, arguments.gpus, arguments.gpu_product)

    def contained() -> int:
        try:
            return body(Cluster(wish))
        except ClusterError as error:
            print(f"cluster: {error}", file=sys.stderr)
            return FAILED

    try:
        return namespaces.contained(contained, started)
    finally:
        cgroups.remove(cgroup)


def _enter(arguments: argparse.Namespace) -> int:
    return namespaces.inside(_init_of_up(), arguments.command, layout.environment())


def _load(arguments: argparse.Namespace) -> int:
    if not _is_inside():
        return _again_inside()
    print(node.load(arguments.archives))
    return 0


def _order(arguments: argparse.Namespace) -> int:
    if not _is_inside():
        return _again_inside()
    print(control.send(sys.argv[1], getattr(arguments, "part", "")))
    return 0


def _is_inside() -> bool:
    return layout.CONTROL.exists()


def _again_inside() -> int:
    return namespaces.inside(_init_of_up(), [sys.executable, *sys.argv], layout.environment())


def _state_file() -> Path:
    return binaries.cache() / "up.pid"


def _init_of_up() -> int:
    """Process id of the first process of a running `up`. The kernel drops the lock with the process, so that a stale file is told."""
    with contextlib.suppress(FileNotFoundError), _state_file().open() as state:
        try:
            fcntl.flock(state, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            init = int(state.read() or 0)
            if Path(f"/proc/{init}/root{layout.CONTROL}").exists():
                return init
            raise ClusterError("the cluster is still coming up: try again in some seconds") from None
    raise ClusterError(f"no cluster is up: start one with {HERE} up")
