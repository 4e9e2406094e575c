"""A deployment request whose deployment goes into another namespace: with the rights that its own message asks for, and with all that it mounts."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.manifests.objects import ROOT, overlay

from .conftest import Document, Namespace
from .requests_followed import Requests, gone
from .serving import apply, renamed

pytestmark = pytest.mark.cluster

NAME = "elsewhere"
READY_LIMIT_S = 900.0


@pytest.fixture
def requests(
    cluster: Namespace, dynamo: Path, module_namespace: Namespace, image: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Requests]:
    made = Requests(module_namespace, image)
    made.install(tmp_path_factory.mktemp("requests"))
    yield made
    gone(cluster)


@pytest.fixture
def there(namespace: Namespace, image: Callable[[str], str], tmp_path: Path) -> Namespace:
    """What a planner needs is in it, and nothing that lets the reconciler in."""
    apply(namespace, overlay(tmp_path, images=[renamed("planner", image("planner"))]))
    Requests(namespace, image).prometheus(NAME)
    return namespace


def owners(found: Document) -> list[tuple[str, str]]:
    return [(each["kind"], each["name"]) for each in found["metadata"].get("ownerReferences", [])]


def test_it_waits_for_rights_deploys_there_and_leaves_a_deployment_that_is_whole(requests: Requests, there: Namespace) -> None:
    here = requests.namespace
    here.apply(requests.offline(NAME, deploymentOverrides={"namespace": there.name}, autoApply=True))
    said = requests.until(NAME, "Pending", "RightsMissing")["status"]["message"]
    command = re.search(rf"kubectl apply -f \S+ -n {there.name} && kubectl create rolebinding .+? -n {there.name}", said)
    assert command, said
    subprocess.run(["bash", "-c", command[0]], cwd=ROOT, check=True, capture_output=True)  # as it was told, word for word

    found = requests.until(NAME, "Ready", timeout_s=READY_LIMIT_S)
    assert found["status"]["phase"] == "Deployed"
    graph = there.get(f"dynamographdeployment/{NAME}")
    profile = there.get(f"configmap/planner-profile-data-{NAME}")
    assert owners(profile) == [("DynamoGraphDeployment", NAME)]
    assert owners(graph) == []
    assert json.loads(profile["data"]["profile.json"])["prefill"]
    assert here.kubectl("get", "dynamographdeployments", "--output=name") == ""
    there.until(f"deployment/{NAME}-planner", lambda deployment: deployment["status"].get("readyReplicas"))
    assert "New adjustment interval started!" in there.logs(f"deployment/{NAME}-planner")

    here.kubectl("delete", "dgdr", NAME)
    for left in requests.left(NAME):
        here.wait(left, "delete")
    assert there.get(f"dynamographdeployment/{NAME}")["metadata"]["uid"] == graph["metadata"]["uid"]
    assert there.get(f"configmap/planner-profile-data-{NAME}")["metadata"]["uid"] == profile["metadata"]["uid"]
    there.kubectl("delete", "dynamographdeployment", NAME)
    there.wait(f"configmap/planner-profile-data-{NAME}", "delete")
