"""A manifest made to serve another model: arguments of each engine, weights on a volume, images and secrets; in both API versions."""

import json
from pathlib import Path

import pytest

from sla_planner.engines.backends import backend, backend_names
from sla_planner.engines.dgd import read_dgd, to_yaml
from sla_planner.engines.dgd_serving import made_to_serve
from sla_planner.errors import UsageError
from sla_planner.request.manifests import Serving

FILES = {file.stem: file for file in (Path(__file__).parents[1] / "data" / "dgd").glob("*.yaml")}
TWO_VERSIONS = ("vllm-disagg", "vllm-v1beta1")


def document(stem):
    return read_dgd(FILES[stem].read_text())


def served(stem, **more):
    return made_to_serve(document(stem), backend(stem.partition("-")[0]), Serving(**{"model": "org/model", **more}))


def services(found):
    spec = found["spec"]
    return dict(spec["services"]) if "services" in spec else {one["name"]: one for one in spec["components"]}


def pod(body):
    return body["extraPodSpec"] if "extraPodSpec" in body else body["podTemplate"]["spec"]


def main(body):
    return pod(body)["mainContainer"] if "extraPodSpec" in body else next(one for one in pod(body)["containers"] if one["name"] == "main")


@pytest.mark.parametrize(
    ("name", "given", "written"),
    [
        ("vllm", "--model a --max-num-seqs 4", "--model org/model --max-num-seqs 4"),
        ("vllm", "--model=a --served-model-name a", "--model=org/model --served-model-name org/model"),
        ("vllm", "--max-num-seqs 4", "--max-num-seqs 4 --model org/model"),
        ("sglang", "--model-path a --tp 2", "--model-path org/model --tp 2"),
        ("sglang", "--model a --served-model-name b", "--model org/model --served-model-name org/model"),
        ("trtllm", "--model-path a --served-model-name b", "--model-path org/model --served-model-name org/model"),
    ],
)
def test_the_model_of_a_command_line(name, given, written):
    assert backend(name).serve(given.split(), "org/model", "org/model", trust=False) == written.split()


@pytest.mark.parametrize(("name", "flag"), [("vllm", "--model"), ("sglang", "--model-path"), ("trtllm", "--model-path")])
def test_weights_in_a_folder_are_served_under_the_models_name(name, flag):
    found = backend(name).serve([flag, "a"], "org/model", "/cache/model", trust=False)
    assert found == [flag, "/cache/model", "--served-model-name", "org/model"]


def test_code_that_comes_with_the_weights():
    for name in ("vllm", "sglang"):
        once = backend(name).serve(["--model", "a"], "a", "a", trust=True)
        assert once == ["--model", "a", "--trust-remote-code"]
        assert backend(name).serve(once, "a", "a", trust=True) == once
    found = backend("trtllm").serve(["--model", "a", "--override-engine-args", '{"max_batch_size": 4}'], "a", "a", trust=True)
    assert json.loads(found[-1]) == {"max_batch_size": 4, "trust_remote_code": True}


@pytest.mark.parametrize("name", sorted(set(backend_names()) - {"vllm", "sglang", "trtllm"}))
def test_engines_without_manifests_say_so(name):
    with pytest.raises(UsageError, match="has no DynamoGraphDeployment"):
        backend(name).serve([], "a", "a", trust=False)


def test_a_shell_line_keeps_its_form():
    (text,) = (text for body in services(served("vllm-disagg-shell")).values() for text in main(body).get("args", []) if "ulimit" in text)
    assert text.startswith("ulimit -n 65536 && VLLM_LOGGING_LEVEL=INFO exec python3 -m dynamo.vllm \\\n  --model org/model \\\n")


@pytest.mark.parametrize("stem", TWO_VERSIONS)
def test_images_volume_and_secrets_are_those_of_all_that_serve(stem):
    before = document(stem)
    found = served(stem, path="/cache/m", image="mine:1", claim="weights-pvc", mount_path="/cache", pull_secrets=("one", "two"), hf_token=("s", "k"))
    assert before == document(stem)
    for name, body in services(found).items():
        if "planner" in name.lower():
            assert body == services(before)[name]
            continue
        assert main(body)["image"] == "mine:1"
        assert pod(body)["volumes"][-1] == {"name": "weights", "persistentVolumeClaim": {"claimName": "weights-pvc"}}
        assert main(body)["volumeMounts"][-1] == {"name": "weights", "mountPath": "/cache"}
        assert pod(body)["imagePullSecrets"][-2:] == [{"name": "one"}, {"name": "two"}]
        (token,) = (one for one in (body.get("envs") or main(body)["env"]) if one["name"] == "HF_TOKEN")
        assert token["valueFrom"]["secretKeyRef"] == {"name": "s", "key": "k", "optional": True}


@pytest.mark.parametrize("stem", [stem for stem in FILES if stem != "vllm-agg"])
def test_twice_is_once(stem):
    wanted = Serving("org/model", "/cache/m", "mine:1", "claim", "/cache", ("one",), ("s", "k"), True)
    engine = backend(stem.partition("-")[0])
    once = made_to_serve(document(stem), engine, wanted)
    assert made_to_serve(read_dgd(to_yaml(once)), engine, wanted) == once


def test_a_mount_in_the_same_place_gives_way():
    base = document("vllm-disagg")
    decode = base["spec"]["services"]["VllmDecodeWorker"]["extraPodSpec"]
    decode["volumes"] = [{"name": "old", "emptyDir": {}}]
    decode["mainContainer"]["volumeMounts"] = [{"name": "old", "mountPath": "/cache"}, {"name": "old", "mountPath": "/other"}]
    found = made_to_serve(base, backend("vllm"), Serving("m", claim="c", mount_path="/cache"))
    mounts = main(services(found)["VllmDecodeWorker"])["volumeMounts"]
    assert mounts == [{"name": "old", "mountPath": "/other"}, {"name": "weights", "mountPath": "/cache"}]


def test_nothing_but_the_model_changes_where_nothing_else_is_asked_for():
    before, found = document("vllm-disagg"), served("vllm-disagg")
    for graph in (before, found):
        for name in ("VllmPrefillWorker", "VllmDecodeWorker"):
            args = main(services(graph)[name])["args"]
            del args[args.index("--model") + 1]
    assert found == before


def test_the_manifest_of_another_engine_is_refused():
    with pytest.raises(UsageError, match="is for vllm, asked for is sglang"):
        made_to_serve(
            document("vllm-v1beta1") | {"spec": {**document("vllm-v1beta1")["spec"], "backendFramework": "vllm"}}, backend("sglang"), Serving("m")
        )
