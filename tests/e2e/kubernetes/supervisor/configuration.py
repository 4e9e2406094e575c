"""The files that the parts read: identities, certificates, kubelet, containerd, pod network, DNS.

Identities are static tokens with the names and groups that a real cluster's parts have, so that RBAC, the node authorizer and NodeRestriction decide
about the same requests. Certificates come from one CA of two days.
"""

from __future__ import annotations

import base64
import json
import secrets
import subprocess
from pathlib import Path

from supervisor.layout import (
    API,
    CLUSTER_DOMAIN,
    CONTAINERD_SOCKET,
    KUBECONFIG,
    LOGS,
    NODE,
    NODE_IP,
    PAUSE_IMAGE,
    PKI,
    POD_NETWORK,
    SERVICE_IP,
    STATE,
    VOLUMES,
    kubeconfig_of,
)

CA = PKI / "ca.crt"
TOKENS = STATE / "tokens.csv"
CONTAINERD = STATE / "containerd.toml"
KUBELET = STATE / "kubelet.json"
COREFILE = STATE / "Corefile"
POD_NETWORKS = STATE / "cni"
POD_LOGS = STATE / "pods"

USERS = {  # short name: user name, groups
    "admin": ("kubernetes-admin", "system:masters"),
    "kube-controller-manager": ("system:kube-controller-manager", ""),
    "kube-scheduler": ("system:kube-scheduler", ""),
    "kube-proxy": ("system:kube-proxy", ""),
    "kubelet": (f"system:node:{NODE}", "system:nodes"),
    "coredns": ("system:coredns", "system:masters"),
}


def write_all(cgroup: str) -> None:
    """`cgroup`: the name under which all containers' control groups lie."""
    for folder in (STATE, LOGS, PKI, VOLUMES, POD_NETWORKS, POD_LOGS):
        folder.mkdir(parents=True, exist_ok=True)
    _certificates()
    _identities()
    KUBELET.write_text(json.dumps(_kubelet(cgroup), indent=1))
    CONTAINERD.write_text(_CONTAINERD)
    COREFILE.write_text(_COREFILE)
    (POD_NETWORKS / "10-pods.conflist").write_text(json.dumps(_POD_NETWORK, indent=1))


def _certificates() -> None:
    _certificate("ca", "/CN=e2e")
    names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", f"kubernetes.default.svc.{CLUSTER_DOMAIN}", "localhost"]
    alternatives = ",".join([*(f"DNS:{name}" for name in names), *(f"IP:{address}" for address in (NODE_IP, SERVICE_IP, "127.0.0.1"))])
    _certificate("apiserver", "/CN=kube-apiserver", f"subjectAltName={alternatives}")
    _certificate("apiserver-kubelet", "/O=system:masters/CN=kube-apiserver-kubelet-client", "extendedKeyUsage=clientAuth")
    _openssl("genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", str(PKI / "service-accounts.key"))


def _certificate(name: str, subject: str, *extensions: str) -> None:
    command = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj", subject]
    command += ["-keyout", str(PKI / f"{name}.key"), "-out", str(PKI / f"{name}.crt")]
    for extension in extensions:
        command += ["-addext", extension]
    if name != "ca":
        command += ["-CA", str(CA), "-CAkey", str(PKI / "ca.key"), "-addext", "basicConstraints=critical,CA:FALSE"]
    _openssl(*command)


def _openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _identities() -> None:
    lines = []
    for short, (user, groups) in USERS.items():
        token = secrets.token_hex(16)
        lines.append(f'{token},{user},{short},"{groups}"\n')
        _kubeconfig(kubeconfig_of(short), user, token)
    TOKENS.write_text("".join(lines))
    TOKENS.chmod(0o600)
    kubeconfig_of("admin").rename(KUBECONFIG)


def _kubeconfig(path: Path, user: str, token: str) -> None:
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "e2e", "cluster": {"server": API, "certificate-authority-data": base64.b64encode(CA.read_bytes()).decode()}}],
        "users": [{"name": user, "user": {"token": token}}],
        "contexts": [{"name": "e2e", "context": {"cluster": "e2e", "user": user}}],
        "current-context": "e2e",
    }
    path.write_text(json.dumps(content, indent=1))
    path.chmod(0o600)


def _kubelet(cgroup: str) -> dict[str, object]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {"anonymous": {"enabled": False}, "webhook": {"enabled": True}, "x509": {"clientCAFile": str(CA)}},
        "authorization": {"mode": "Webhook"},
        "containerRuntimeEndpoint": f"unix://{CONTAINERD_SOCKET}",
        "clusterDomain": CLUSTER_DOMAIN,
        "clusterDNS": [NODE_IP],
        "resolvConf": "/dev/null",
        "podLogsDir": str(POD_LOGS),
        "volumePluginDir": str(STATE / "volume-plugins"),
        # Control groups as they are found: version 1, 2 or both, without systemd. Only pods have limits, not all of them together.
        "failCgroupV1": False,
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{cgroup}",
        "enforceNodeAllocatable": [],
        "localStorageCapacityIsolation": False,
        "oomScoreAdj": 0,  # a lower one needs CAP_SYS_RESOURCE
        # The machine's disk and memory are shared with everything else that runs on it: nothing of that may evict a pod.
        "evictionHard": {"memory.available": "1Mi", "nodefs.available": "0%", "nodefs.inodesFree": "0%", "imagefs.available": "0%"},
        "imageGCHighThresholdPercent": 100,
        "serializeImagePulls": False,
        "registerNode": True,
        "failSwapOn": False,
    }


# No registry is reachable: the pause image is imported. Plugins that would leave folders elsewhere are off.
_CONTAINERD = f"""\
version = 2
root = "/run/containerd-root"
state = "/run/containerd"
disabled_plugins = [
  "io.containerd.internal.v1.opt",
  "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs",
]

[grpc]
address = "{CONTAINERD_SOCKET}"

[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE_IMAGE}"
restrict_oom_score_adj = true

[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "overlayfs"
default_runtime_name = "runc"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "{POD_NETWORKS}"
"""

# Routed, not bridged: every packet passes the node's own rules, so that services work without the br_netfilter module.
_POD_NETWORK = {
    "cniVersion": "0.4.0",
    "name": "pods",
    "plugins": [
        {
            "type": "ptp",
            "ipMasq": False,
            "ipam": {
                "type": "host-local",
                "ranges": [[{"subnet": POD_NETWORK}]],
                "routes": [{"dst": "0.0.0.0/0"}],
                "dataDir": str(STATE / "addresses"),
            },
        }
    ],
}

_COREFILE = f"""\
.:53 {{
    bind {NODE_IP}
    ready {NODE_IP}:8181
    errors
    kubernetes {CLUSTER_DOMAIN} in-addr.arpa {{
        kubeconfig {kubeconfig_of("coredns")}
        pods verified
        ttl 1
    }}
}}
"""
