from __future__ import annotations

import base64
import json
import ssl
import urllib.request
from pathlib import Path

from .conftest import document
from .stand_in.versions import ALPHA, BETA
from .stand_in.webhook import review, webhook


def asked(*graphs, version=BETA):
    request = {"uid": "u-7", "desiredAPIVersion": version, "objects": list(graphs)}
    return {"apiVersion": "apiextensions.k8s.io/v1", "kind": "ConversionReview", "request": request}


def test_the_api_server_is_answered_over_https_with_the_certificate_that_it_was_given():
    with webhook() as running:
        client = running.conversion()["webhook"]["clientConfig"]
        context = ssl.create_default_context(cadata=base64.b64decode(client["caBundle"]).decode())
        for path in ("vllm-disagg", "vllm-agg"):
            body = json.dumps(asked(document(f"tests/data/dgd/{path}.yaml"))).encode()
            with urllib.request.urlopen(urllib.request.Request(client["url"], body), timeout=10, context=context) as answer:
                told = json.load(answer)
            assert (told["kind"], told["response"]["uid"], told["response"]["result"]) == ("ConversionReview", "u-7", {"status": "Success"})
            assert [graph["apiVersion"] for graph in told["response"]["convertedObjects"]] == [BETA]


def test_what_cannot_be_converted_is_told():
    told = review(asked({"apiVersion": ALPHA, "metadata": {}, "spec": {"services": {"a": []}}}))
    assert told["response"]["result"]["status"] == "Failure"
    assert "AttributeError" in told["response"]["result"]["message"]


def test_a_definition_says_how_to_reach_it():
    with webhook() as running:
        conversion = running.conversion()
    assert conversion["strategy"] == "Webhook"
    assert conversion["webhook"]["conversionReviewVersions"] == ["v1"]
    assert (Path(__file__).parents[1] / "crds" / "dynamographdeployments.nvidia.com.yaml").is_file()
