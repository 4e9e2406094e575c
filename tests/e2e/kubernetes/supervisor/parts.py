"""What makes up the cluster: each part's command line and how it says that it is ready."""

from __future__ import annotations

import http.client
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path

from supervisor import configuration, storage
from supervisor.api import Api
from supervisor.layout import NODE, NODE_IP, PKI, POD_NETWORK, SERVICE_NETWORK, STATE, kubeconfig_of
from supervisor.processes import Part

ETCD = "http://127.0.0.1:2379"
STORES = ("etcd", "containerd")
API_SERVER = "apiserver"
CLIENTS = ("controller-manager", "scheduler", "kubelet", "proxy", "dns", "provisioner")


def parts(programs: Path, node_labels: dict[str, str]) -> list[Part]:
    """In the order STORES, API_SERVER, CLIENTS, in which they must be started."""
    api = Api()
    labels = ",".join(f"{name}={value}" for name, value in node_labels.items())
    return [
        Part("etcd", _etcd(), _answers(f"{ETCD}/health")),
        Part("containerd", ["containerd", "--config", str(configuration.CONTAINERD)]),
        Part(API_SERVER, _apiserver(programs), api.healthy),
        Part("controller-manager", _controller_manager(programs)),
        Part("scheduler", [str(programs / "kube-scheduler"), f"--kubeconfig={kubeconfig_of('kube-scheduler')}", "--leader-elect=false"]),
        Part("kubelet", _kubelet(programs, labels), _answers("http://127.0.0.1:10248/healthz")),
        Part("proxy", _proxy(programs), _answers("http://127.0.0.1:10256/healthz")),
        Part("dns", [str(programs / "coredns"), "-conf", str(configuration.COREFILE)], _answers(f"http://{NODE_IP}:8181/ready")),
        Part("provisioner", [sys.executable, storage.__file__]),
    ]


def _etcd() -> list[str]:
    peer = "http://127.0.0.1:2380"
    return [
        "etcd",
        f"--data-dir={STATE}/etcd",
        f"--listen-client-urls={ETCD}",
        f"--advertise-client-urls={ETCD}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=default={peer}",
    ]


def _apiserver(programs: Path) -> list[str]:
    return [
        str(programs / "kube-apiserver"),
        f"--etcd-servers={ETCD}",
        "--bind-address=0.0.0.0",
        f"--advertise-address={NODE_IP}",
        f"--service-cluster-ip-range={SERVICE_NETWORK}",
        f"--tls-cert-file={PKI}/apiserver.crt",
        f"--tls-private-key-file={PKI}/apiserver.key",
        f"--client-ca-file={configuration.CA}",
        f"--token-auth-file={configuration.TOKENS}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--allow-privileged=true",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={PKI}/service-accounts.key",
        f"--service-account-signing-key-file={PKI}/service-accounts.key",
        f"--kubelet-client-certificate={PKI}/apiserver-kubelet.crt",
        f"--kubelet-client-key={PKI}/apiserver-kubelet.key",
        "--kubelet-preferred-address-types=InternalIP",
        "--shutdown-delay-duration=0s",
    ]


def _controller_manager(programs: Path) -> list[str]:
    kubeconfig = kubeconfig_of("kube-controller-manager")
    return [
        str(programs / "kube-controller-manager"),
        f"--kubeconfig={kubeconfig}",
        f"--authentication-kubeconfig={kubeconfig}",
        f"--authorization-kubeconfig={kubeconfig}",
        "--leader-elect=false",
        "--use-service-account-credentials",
        "--pvclaimbinder-sync-period=1s",  # a claim that was changed meanwhile is looked at again then
        f"--root-ca-file={configuration.CA}",
        f"--service-account-private-key-file={PKI}/service-accounts.key",
    ]


def _kubelet(programs: Path, labels: str) -> list[str]:
    return [
        str(programs / "kubelet"),
        f"--config={configuration.KUBELET}",
        f"--kubeconfig={kubeconfig_of('kubelet')}",
        "--root-dir=/run/kubelet",
        f"--hostname-override={NODE}",
        f"--node-ip={NODE_IP}",
        f"--node-labels={labels}",
    ]


def _proxy(programs: Path) -> list[str]:
    return [
        str(programs / "kube-proxy"),
        f"--kubeconfig={kubeconfig_of('kube-proxy')}",
        f"--hostname-override={NODE}",
        "--proxy-mode=nftables",
        f"--cluster-cidr={POD_NETWORK}",
        "--healthz-bind-address=127.0.0.1:10256",
        # Zero: leave the kernel's settings as they are, they cannot be written everywhere.
        "--conntrack-max-per-core=0",
        "--conntrack-tcp-timeout-established=0",
        "--conntrack-tcp-timeout-close-wait=0",
    ]


def _answers(url: str) -> Callable[[], bool]:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def ready() -> bool:
        try:
            with direct.open(url, timeout=2):
                return True
        except (OSError, http.client.HTTPException):  # refused, or an error status
            return False

    return ready
