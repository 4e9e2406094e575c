"""What manifests name: pods as Kubernetes has them, and both versions of a graph."""

from __future__ import annotations

from sla_planner.preflight.facts import Use
from sla_planner.preflight.references import config_maps_named, secrets_named


def test_secrets_wherever_they_are_named():
    document = {
        "spec": {
            "imagePullSecrets": [{"name": "pull"}],
            "services": {"Worker": {"envFromSecret": "hf", "extraPodSpec": {"imagePullSecrets": [{"name": "nvcr"}]}}},
            "containers": [
                {
                    "env": [{"name": "T", "valueFrom": {"secretKeyRef": {"name": "hf", "key": "HF_TOKEN", "optional": True}}}],
                    "envFrom": [{"secretRef": {"name": "all"}}],
                }
            ],
            "volumes": [{"name": "tls", "secret": {"secretName": "tls"}}],
        }
    }
    assert set(secrets_named(document, "Graph/chat")) == {
        Use("pull", "Graph/chat", pulls=True),
        Use("nvcr", "Graph/chat", pulls=True),
        Use("hf", "Graph/chat"),
        Use("hf", "Graph/chat", key="HF_TOKEN", optional=True),
        Use("all", "Graph/chat"),
        Use("tls", "Graph/chat"),
    }


def test_config_maps_wherever_they_are_named():
    document = {
        "volumes": [{"configMap": {"name": "settings"}}, {"configMap": {"name": "profile", "optional": True}}],
        "env": [{"valueFrom": {"configMapKeyRef": {"name": "one", "key": "k"}}}],
        "envFrom": [{"configMapRef": {"name": "all"}}],
    }
    assert set(config_maps_named(document, "x")) == {
        Use("settings", "x"),
        Use("profile", "x", optional=True),
        Use("one", "x", key="k"),
        Use("all", "x"),
    }


def test_what_only_looks_like_one_is_none():
    assert secrets_named({"secret": "text", "imagePullSecrets": None, "secretRef": {}}, "x") == ()
    assert config_maps_named({"configMap": "text"}, "x") == ()
