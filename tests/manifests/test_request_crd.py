"""The DynamoGraphDeploymentRequest definition: one schema for both versions that knows what the reader knows, and the samples that are delivered."""

from __future__ import annotations

import contextlib
import shlex

import jsonschema
import pytest
import yaml
from tests.manifests.objects import COMPONENTS, ROOT, build, of_kind
from tests.manifests.request_refusals import ACCEPTED, ALPHA, BETA, CHANGED, CREATED, MISTYPED, STATUS

from sla_planner import __version__
from sla_planner.cli import group
from sla_planner.request.read import Allowed, InvalidRequestError, read
from sla_planner.request.read_common import LONGEST_NAME
from sla_planner.request.reading import camel_case, snake_case
from sla_planner.request.spec import EngineLimits, Method
from sla_planner.request.status import SUB_PHASES
from sla_planner.request_reference import reference
from sla_planner.stages.reconcile_requests_reading import allowed

DEFINITION = yaml.safe_load((ROOT / "manifests/crds/dynamographdeploymentrequest.yaml").read_text())
VERSIONS = {version["name"]: version for version in DEFINITION["spec"]["versions"]}
SCHEMA = VERSIONS["v1beta1"]["schema"]["openAPIV3Schema"]
SPEC, STATUS_SCHEMA = SCHEMA["properties"]["spec"], SCHEMA["properties"]["status"]
CONFIG = SPEC["properties"]["profilingConfig"]["properties"]["config"]
PRESERVED = "x-kubernetes-preserve-unknown-fields"
SAMPLES = {file.stem: yaml.safe_load(file.read_text()) for file in sorted((ROOT / "manifests/requests").glob("*.yaml"))}


def walk(schema, path=""):
    """(path, schema) of every field."""
    yield path, schema
    for name, inner in schema.get("properties", {}).items():
        yield from walk(inner, f"{path}.{name}")
    for key, mark in (("items", "[]"), ("additionalProperties", "{}")):
        if key in schema:
            yield from walk(schema[key], f"{path}{mark}")


def pruned(value, schema, path=""):
    """Paths that the API server would take away, because the schema does not have them."""
    if isinstance(value, dict) and "additionalProperties" in schema:
        return [gone for key, inner in value.items() for gone in pruned(inner, schema["additionalProperties"], f"{path}.{key}")]
    if isinstance(value, dict):
        known = schema.get("properties", {})
        inside = [gone for key, inner in value.items() if key in known for gone in pruned(inner, known[key], f"{path}.{key}")]
        return inside + [f"{path}.{key}" for key in value if key not in known and not schema.get(PRESERVED)]
    if isinstance(value, list) and "items" in schema:
        return [gone for inner in value for gone in pruned(inner, schema["items"], f"{path}[]")]
    return []


def errors(found):
    """Paths at which the schema refuses an object; a missing key is at its own path."""
    paths = []
    for error in jsonschema.Draft4Validator(SCHEMA).iter_errors(found):
        missing = error.validator_value if error.validator == "required" else ()
        names = [[key] for key in missing if key not in error.instance] or [[]]
        paths += [".".join(map(str, [*error.absolute_path, *name])) for name in names]
    return paths


def with_namespace(found):
    return found | {"metadata": found["metadata"] | {"namespace": "llm"}}


# ---- the definition -----------------------------------------------------------------------------------------------------------------------


def test_versions():
    """Without a webhook, conversion changes nothing but the version's name: what one schema lacked would be lost."""
    assert {name: (version["served"], version["storage"]) for name, version in VERSIONS.items()} == {
        "v1alpha1": (True, False),
        "v1beta1": (True, True),
    }
    assert DEFINITION["spec"]["conversion"] == {"strategy": "None"}
    assert VERSIONS["v1alpha1"] | {"name": "", "storage": ""} == VERSIONS["v1beta1"] | {"name": "", "storage": ""}


def test_it_is_found_and_shown():
    names = DEFINITION["spec"]["names"]
    assert (names["shortNames"], names["kind"]) == (["dgdr"], "DynamoGraphDeploymentRequest")
    assert DEFINITION["metadata"]["name"] == f"{names['plural']}.{DEFINITION['spec']['group']}"
    columns = VERSIONS["v1alpha1"]["additionalPrinterColumns"]
    assert [column["name"] for column in columns if not column.get("priority")] == ["Model", "Backend", "State", "DGD-State", "Age"]
    assert [column["name"] for column in columns if column.get("priority")] == ["Progress", "Message"]
    for column in columns:
        place = SCHEMA | {"properties": SCHEMA["properties"] | {"metadata": {"properties": {"creationTimestamp": {}}}}}
        for step in column["jsonPath"].strip(".").split("."):
            place = place["properties"][step]


def test_its_label_says_that_it_is_ours():
    """Whose requests are is told by it."""
    assert DEFINITION["metadata"]["labels"]["app.kubernetes.io/part-of"] == "sla-planner"


def test_the_schema_is_structural():
    """Every field has a type or a reason to have none, and what says so says nothing else."""
    for path, schema in walk(SCHEMA):
        assert schema.get("type") or schema.get(PRESERVED) or schema.get("x-kubernetes-int-or-string"), path
        assert not ("properties" in schema and "additionalProperties" in schema), path
        assert "default" not in schema, f"{path}: what is left out differs by version"
        assert not {"$ref", "oneOf", "allOf", "not", "definitions", "uniqueItems"} & schema.keys(), path


def test_every_field_is_explained():
    shown = (".spec", ".status")
    plain = ("{}", "[]", ".enabled", ".status.deployment.", ".status.deploymentInfo.", ".status.conditions", ".requests", ".limits")
    for path, schema in walk(SCHEMA):
        if path.startswith(shown) and not any(part in path for part in plain):
            assert schema.get("description"), path


def test_content_that_is_free_is_compared_whole():
    """An object of unknown fields alone is the same as another with as many fields, to the API server's rules: {a: 1} and {b: 1}."""
    for path, schema in walk(SPEC):
        if schema.get(PRESERVED) and schema.get("type") == "object":
            assert "properties" in schema, path


def test_every_rule_has_a_case_that_it_refuses():
    rules = [rule["message"] for _, schema in walk(SCHEMA) for rule in schema.get("x-kubernetes-validations", [])]
    cases = [*CREATED, *CHANGED]
    assert len(rules) == len(cases)
    for words in cases:
        assert sum(words in message for message in rules) == 1, words


def test_the_longest_name_is_the_readers():
    (rule,) = [rule for rule in SCHEMA["x-kubernetes-validations"] if "metadata.name" in rule["rule"]]
    assert rule["rule"] == f"size(self.metadata.name) <= {LONGEST_NAME}"


# ---- objects ------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", MISTYPED)
def test_what_the_schema_refuses(path):
    assert path in errors(MISTYPED[path])


@pytest.mark.parametrize("found", [*ACCEPTED, *(found for cases in CREATED.values() for found in cases), *SAMPLES.values()])
def test_what_the_schema_takes_it_keeps(found):
    assert errors(found) == []
    assert pruned(found["spec"], SPEC) == []


def test_what_is_unknown_is_taken_away_or_left_to_the_reader():
    assert pruned({"model": "a", "modle": "b", "sla": {"tpot": 1}}, SPEC) == [".sla.tpot", ".modle"]
    assert pruned({"profilingConfig": {"config": {"nonsense": 1, "sla": {"tpot": 1}}}}, SPEC) == []


def test_a_status_is_kept():
    assert pruned(STATUS, STATUS_SCHEMA) == []
    assert errors(BETA | {"status": STATUS}) == []
    assert STATUS.keys() == STATUS_SCHEMA["properties"].keys()
    assert all(phase in STATUS_SCHEMA["properties"]["profilingPhase"]["description"] for phase in SUB_PHASES)


# ---- the reader ---------------------------------------------------------------------------------------------------------------------------

NOTHING_KNOWN = "zzzzzzzzzzzz"


def offered(found, path):
    """The keys that the reader knows at `path`: it offers them where a key is like none of them."""
    try:
        read(with_namespace(found), Allowed(frozenset()))
    except InvalidRequestError as error:
        (hint,) = [fault.hint for fault in error.faults if fault.path == f"{path}.{NOTHING_KNOWN}"]
        return set(hint.removeprefix("known: ").split(", "))
    raise AssertionError(path)


def test_reader_and_schema_know_the_same_keys_of_the_spec():
    old, new = (found | {"spec": found["spec"] | {NOTHING_KNOWN: 1}} for found in (ALPHA, BETA))
    assert offered(old, "spec") | offered(new, "spec") == SPEC["properties"].keys()


@pytest.mark.parametrize("section", ["profilingConfig", "deploymentOverrides"])
def test_reader_and_schema_know_the_same_keys_of_v1alpha1(section):
    found = ALPHA | {"spec": ALPHA["spec"] | {section: ALPHA["spec"].get(section, {}) | {NOTHING_KNOWN: 1}}}
    assert offered(found, f"spec.{section}") == SPEC["properties"][section]["properties"].keys()


@pytest.mark.parametrize("section", ["sla", "workload", "hardware", "modelCache", "features", "overrides"])
def test_reader_and_schema_know_the_same_keys_of_v1beta1(section):
    found = BETA | {"spec": BETA["spec"] | {section: {NOTHING_KNOWN: 1}}}
    assert offered(found, f"spec.{section}") == SPEC["properties"][section]["properties"].keys()


@pytest.mark.parametrize("section", ["", "sla", "deployment", "engine", "hardware", "sweep", "aic"])
@pytest.mark.parametrize("camel", [False, True])
def test_reader_and_schema_know_the_same_keys_of_the_profilers_config(section, camel):
    """Each in both spellings."""
    unknown, spelling = {NOTHING_KNOWN: 1}, camel_case if camel else snake_case
    if camel:
        unknown["someThing"] = 1
    profiling = ALPHA["spec"]["profilingConfig"]
    config = profiling["config"] | ({section: unknown} if section else unknown)
    found = ALPHA | {"spec": ALPHA["spec"] | {"profilingConfig": profiling | {"config": config}}}
    path = "spec.profilingConfig.config" + (f".{section}" if section else "")
    schema = CONFIG["properties"][section] if section else CONFIG
    assert offered(found, path) == {name for name in schema["properties"] if name == spelling(name)}
    assert all({snake_case(name), camel_case(name)} <= schema["properties"].keys() for name in schema["properties"])


@pytest.mark.parametrize("found", [found for found in ACCEPTED if len(found["metadata"]["name"]) < LONGEST_NAME])
def test_what_the_definition_takes_can_be_read(found):
    assert read(with_namespace(found), allowed()).name == "sla"


# ---- what is delivered --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SAMPLES)
def test_samples_are_right_and_ask_for_nothing_without_effect(name):
    request = read(with_namespace(SAMPLES[name]), allowed())
    assert (request.shape, request.auto_apply, request.notes) == ("v1alpha1", True, ())
    assert request.profiling.image == f"sla-planner/profile-sweep:{__version__}"


def test_there_is_one_sample_of_each_kind():
    requests = {name: read(with_namespace(found), allowed()) for name, found in SAMPLES.items()}
    online, offline, moe = (requests.pop(f"profile_sla{kind}_dgdr") for kind in ("", "_aic", "_moe"))
    assert not requests
    assert (online.backend, online.profiling.method, online.profiling.is_moe) == ("vllm", Method.ONLINE, None)
    assert (offline.name, offline.backend, offline.profiling.method, offline.profiling.limits.gpu_type) == (
        "sla-aic",
        "trtllm",
        Method.OFFLINE,
        "h200_sxm",
    )
    assert offline.graph_name == "trtllm-disagg"
    assert (moe.backend, moe.profiling.method, moe.profiling.is_moe) == ("sglang", Method.ONLINE, True)
    assert moe.profiling.limits == EngineLimits(8, 32)


@pytest.mark.parametrize("name", SAMPLES)
def test_samples_use_the_images_of_the_graphs(name):
    request = read(with_namespace(SAMPLES[name]), allowed())
    graph = yaml.safe_load((ROOT / f"scripts/sla_planner/graphs/{request.backend}/disagg.yaml").read_text())
    images = {service["extraPodSpec"]["mainContainer"]["image"] for service in graph["spec"]["services"].values()}
    assert images == {request.deploying.workers_image}
    assert request.graph_name == graph["metadata"]["name"]


def test_the_component_brings_the_definition_and_nothing_else():
    kustomization = yaml.safe_load((COMPONENTS / "deployment-requests-crd" / "kustomization.yaml").read_text())
    (folder,) = kustomization["resources"]
    assert kustomization.keys() == {"apiVersion", "kind", "resources"}
    objects = build((COMPONENTS / "deployment-requests-crd" / folder).resolve())
    (definition,) = of_kind(objects, "CustomResourceDefinition").values()
    assert len(objects) == 1
    assert definition["spec"] == DEFINITION["spec"]


def test_what_stands_does_not_bring_the_definition():
    """It would overwrite that of a Dynamo operator."""
    assert not of_kind(build(ROOT), "CustomResourceDefinition")


def test_the_reference_of_the_fields_is_that_of_the_definition():
    """`make docs` writes it."""
    assert (ROOT / "manifests/requests/fields.md").read_text() == reference(DEFINITION)


def test_a_request_of_ones_own_is_rendered_as_the_guide_says(tmp_path):
    (line,) = [line for line in (ROOT / "manifests/requests/README.md").read_text().splitlines() if line.startswith("sla-planner render")]
    words = shlex.split(line.replace("request.yaml", str(tmp_path / "request.yaml")))[1:]
    with contextlib.chdir(ROOT):
        group.main(words, standalone_mode=False)
    request = read(with_namespace(yaml.safe_load((tmp_path / "request.yaml").read_text())), allowed())
    assert request.profiling.image == "registry.example.com/sla-planner/profile-sweep:0.1.0"
