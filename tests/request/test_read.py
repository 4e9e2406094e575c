"""What reading does the same for both shapes of a request."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.request.requests_written import ALLOWED, ALPHA, BETA, CONFIG, alpha, beta, changed, fault, faults

from sla_planner.config_types import SECONDS_BELOW_MS
from sla_planner.request.made_names import job_name
from sla_planner.request.read import Allowed, InvalidRequestError, read
from sla_planner.request.read_common import LONGEST_NAME
from sla_planner.request.reading import MOST_SECONDS, camel_case, snake_case
from sla_planner.request.spec import Fault, Method


def test_the_same_wish_in_both_shapes_is_the_same_request():
    old = changed(
        ALPHA,
        metadata__name="qwen",
        spec__autoApply=True,
        spec__enableGpuDiscovery=True,
        config__sweep={"use_ai_configurator": True, "aic_system": "h200_sxm"},
        config__hardware={"num_gpus_per_node": 8},
        config__planner={"planner_adjustment_interval": 60},
        config__deployment={"model_cache_pvc_name": "weights", "model_cache_pvc_path": "qwen"},
    )
    new = changed(
        BETA,
        metadata=old["metadata"],
        spec__backend="trtllm",
        spec__image="sla-planner/profile-sweep:0.1.0",
        spec__workload={"isl": 3000, "osl": 150},
        spec__sla={"ttft": 200, "itl": 20},
        spec__hardware={"gpuSku": "h200_sxm", "numGpusPerNode": 8},
        spec__features={"planner": {"adjustment_interval": 60}},
        spec__modelCache={"pvcName": "weights", "pvcModelPath": "qwen"},
    )
    one, other = read(old, ALLOWED), read(new, ALLOWED)
    assert (one.shape, other.shape) == ("v1alpha1", "v1beta1")
    assert one == replace(other, shape="v1alpha1", spec=one.spec)
    assert one.profiling.method is Method.OFFLINE


def test_the_version_that_it_was_written_in_does_not_matter():
    """The resource is stored in one version, and read in whichever is asked for."""
    assert read(ALPHA | {"apiVersion": "nvidia.com/v1beta1"}, ALLOWED) == read(ALPHA, ALLOWED)


def test_all_faults_come_at_once_each_with_path_value_and_remedy():
    wrong = changed(
        ALPHA,
        metadata__name="a" * 60,
        spec__backend="vlm",
        spec__modle="x",
        spec__deploymentOverrides={"namespace": "-other", "labels": {"a b": "c"}},
        config__sla={"isl": 0, "osl": 150, "ttft": 0.2, "itl": "20"},
        config__sweep={"pick": True},
        config__planner={"planner_min_endpoints": 2},
    )
    found = faults(wrong)
    assert found.keys() == {
        "metadata.name",
        "spec.backend",
        "spec.modle",
        "spec.deploymentOverrides.namespace",
        "spec.deploymentOverrides.labels.a b",
        f"{CONFIG}.sla.isl",
        f"{CONFIG}.sla.ttft",
        f"{CONFIG}.sla.itl",
        f"{CONFIG}.sweep.pick",
        f"{CONFIG}.planner.planner_min_endpoints",
    }
    assert "at most 54" in found["metadata.name"].hint  # it is the graph's name as well
    assert str(found["spec.backend"]) == 'spec.backend: "vlm" is none of vllm, sglang, trtllm; did you mean vllm?'
    assert str(found[f"{CONFIG}.sla.ttft"]).endswith("0.2 ms looks like seconds; write 200 for 0.2 s")
    assert found["spec.modle"].hint == "did you mean model?"
    assert found[f"{CONFIG}.sla.itl"].hint == "write 20, without quotes"
    assert found[f"{CONFIG}.planner.planner_min_endpoints"].hint == "did you mean min_endpoint?"


def test_the_exception_tells_every_fault():
    with pytest.raises(InvalidRequestError, match=r"spec\.model: is missing.*spec\.nonsense: there is no such key") as raised:
        read({"metadata": {"name": "a", "namespace": "b"}, "spec": {"nonsense": 1}}, ALLOWED)
    assert len(raised.value.faults) == 2


@pytest.mark.parametrize("spec", [None, {}, [], "x", {"profilingConfig": []}, {"profilingConfig": {"config": 3}}, {"model": None, "workload": 7}])
def test_a_spec_that_is_none_is_a_fault_and_no_crash(spec):
    assert faults({"metadata": {"name": "a", "namespace": "b"}, "spec": spec})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["vllm", "rapid", 200, 0.2]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)
PATHS = [
    *(f"{CONFIG}.{path}" for path in ("sla", "sla.ttft", "sla.isl", "hardware", "sweep", "aic", "planner", "engine", "deployment.model_cache", "x")),
    *(f"spec.profilingConfig.{path}" for path in ("config", "resources", "resources.limits", "tolerations", "configMapRef", "profilerImage")),
    *(f"spec.{path}" for path in ("model", "backend", "deploymentOverrides", "deploymentOverrides.labels", "profilingConfig", "autoApply")),
    *(f"spec.{path}" for path in ("sla", "workload", "hardware", "features", "features.planner", "overrides", "modelCache", "image")),
]


@given(base=st.sampled_from([ALPHA, BETA]), changes=st.dictionaries(st.sampled_from(PATHS), JSON, max_size=3))
def test_whatever_is_written_is_read_or_refused(base, changes):
    """What is refused says where, what and what to do, on a line each."""
    wrong = copy.deepcopy(base)
    for path, value in changes.items():
        *way, last = path.split(".")
        place = wrong
        for step in way:
            if not isinstance(place.get(step), dict):
                place[step] = {}
            place = place[step]
        place[last] = value
    for found in faults(wrong).values():
        assert found.path.startswith(("spec", "metadata"))
        assert found.message
        assert found.hint
        assert "\n" not in found.message + found.hint


def test_null_is_the_same_as_not_there():
    assert read(changed(BETA, spec__sla=None, spec__hardware={"gpuSku": None}), ALLOWED) == replace(
        beta(), spec={**BETA["spec"], "sla": None, "hardware": {"gpuSku": None}}
    )


# ---- the promise --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0, "above 0"),
        (-5, "above 0, not -5"),
        (float("nan"), "above 0, not NaN"),
        (float("inf"), "above 0"),
        (True, "not true"),
        ("", 'not ""'),
        ("fast", 'not "fast"'),
        ("200", "write 200, without quotes"),
        ("200ms", "write 200: a plain number, in milliseconds"),
        ("0.2s", "write 200: a plain number, in milliseconds"),
        ("0.2 s", "write 200"),
        (0.2, "looks like seconds; write 200 for 0.2 s"),
        (0.5, "write 500 for 0.5 s"),
        ([200], "not [200]"),
        ({"p99": 200}, "above 0"),
    ],
)
@pytest.mark.parametrize("which", ["ttft", "itl"])
def test_a_latency_that_is_none(which, value, said):
    sla = {"isl": 3000, "osl": 150, "ttft": 200, "itl": 20} | {which: value}
    assert said in fault(changed(ALPHA, config__sla=sla), f"{CONFIG}.sla.{which}")
    assert said in fault(changed(BETA, spec__sla={which: value}), f"spec.sla.{which}")


def test_what_looks_like_seconds_is_the_same_for_requests_and_for_flags():
    assert MOST_SECONDS == SECONDS_BELOW_MS


@pytest.mark.parametrize(("value", "read_as"), [(3000, 3000), (3000.0, 3000)])
def test_lengths(value, read_as):
    """A whole number stays one on its way through JSON, however it is written."""
    assert alpha(config__sla__isl=value).goal.isl_tokens == read_as


@pytest.mark.parametrize(("which", "value"), [("isl", 0), ("isl", 1.5), ("osl", 1), ("isl", "3000"), ("osl", True), ("isl", float("nan"))])
def test_lengths_that_are_none(which, value):
    assert "whole number" in fault(changed(ALPHA, **{f"config__sla__{which}": value}), f"{CONFIG}.sla.{which}")
    assert "whole number" in fault(changed(BETA, spec__workload={which: value}), f"spec.workload.{which}")


def test_the_planners_attainment_is_that_of_the_promise():
    assert alpha(config__planner={"attainment": 0.9}).goal.promise.attainment == 0.9
    assert alpha().goal.promise.attainment == 0.99


# ---- names --------------------------------------------------------------------------------------------------------------------------------


def test_the_longest_name_is_the_one_whose_job_can_still_be_made():
    assert len(job_name(alpha())) - len(alpha().name) + LONGEST_NAME == 63
    named = {"spec__deploymentOverrides": {"name": "short"}}
    assert not faults(changed(ALPHA, metadata__name="a" * LONGEST_NAME, **named))
    said = fault(changed(ALPHA, metadata__name="a" * (LONGEST_NAME + 1), **named), "metadata.name")
    assert "56 characters" in said
    assert "at most 55" in said


@pytest.mark.parametrize(("namespace", "longest"), [("llm", 54), ("n" * 20, 42)])
def test_a_graphs_name_leaves_room_for_its_services_and_its_pods_label(namespace, longest):
    """The operator labels pods with <namespace>-<graph>, and a Service is called <graph>-frontend."""
    place = {"metadata__namespace": namespace}
    assert not faults(changed(ALPHA, spec__deploymentOverrides={"name": "g" * longest}, **place))
    said = fault(changed(ALPHA, spec__deploymentOverrides={"name": "g" * (longest + 1)}, **place), "spec.deploymentOverrides.name")
    assert f"at most {longest} characters" in said


def test_it_is_the_namespace_of_the_graph_that_counts():
    overrides = {"name": "g" * 42, "namespace": "n" * 20}
    assert not faults(changed(ALPHA, spec__deploymentOverrides=overrides))
    said = fault(changed(ALPHA, spec__deploymentOverrides=overrides | {"name": "g" * 43}), "spec.deploymentOverrides.name")
    assert "at most 42 characters" in said


@pytest.mark.parametrize("name", ["7b-model", "qwen.v1", "qwen-", "Qwen", "a_b"])
def test_a_graphs_name_begins_names_of_services(name):
    assert "Services" in fault(changed(ALPHA, spec__deploymentOverrides={"name": name}), "spec.deploymentOverrides.name")


def test_a_request_may_be_called_otherwise_than_its_graph():
    request = alpha(metadata__name="7b.model", spec__deploymentOverrides={"name": "model"})
    assert (request.name, request.graph_name) == ("7b.model", "model")
    assert "apart from the request's" in fault(changed(ALPHA, metadata__name="7b.model"), "metadata.name")


# ---- the planner's settings ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "key", ["planner_adjustment_interval", "adjustment_interval", "plannerAdjustmentInterval", "adjustmentInterval", "adjustment-interval"]
)
def test_settings_of_the_planner_with_and_without_prefix(key):
    assert alpha(config__planner={key: 60}).deploying.planner == {"adjustment_interval": 60}
    assert beta(spec__features={"planner": {key: 60}}).deploying.planner == {"adjustment_interval": 60}


def test_one_setting_written_twice():
    planner = {"planner_min_endpoint": 1, "min_endpoint": 2}
    assert f"2, but {CONFIG}.planner.planner_min_endpoint is 1" in fault(changed(ALPHA, config__planner=planner), f"{CONFIG}.planner.min_endpoint")
    assert alpha(config__planner={"planner_min_endpoint": 2, "min_endpoint": 2}).deploying.planner == {"min_endpoint": 2}


def test_a_setting_that_follows_from_the_request_cannot_be_given():
    said = fault(changed(ALPHA, config__planner={"planner_ttft": 100}), f"{CONFIG}.planner.planner_ttft")
    assert said == "100 cannot be followed: it is set by the request's SLA; remove it"


def test_what_the_planner_says_of_a_value_is_at_the_key_as_it_was_written():
    def check(settings):
        return [Fault(name, f"{value} is not enough", "use 2") for name, value in settings.items() if value == 1]

    strict = replace(ALLOWED, check_planner=check)
    said = fault(changed(ALPHA, config__planner={"planner_min_endpoint": 1}), f"{CONFIG}.planner.planner_min_endpoint", strict)
    assert said == "1 is not enough; use 2"


# ---- spelling -----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("snake", "camel"), [("isl", "isl"), ("use_ai_configurator", "useAiConfigurator"), ("max_num_gpus_per_engine", "maxNumGpusPerEngine")]
)
def test_spellings(snake, camel):
    assert (camel_case(snake), snake_case(camel)) == (camel, snake)


def test_an_unknown_key_shows_no_more_than_a_line_of_its_value():
    said = fault(changed(ALPHA, spec__secrets="x" * 500), "spec.secrets")
    assert "\n" not in said
    assert len(said) < 400


def test_a_request_holds_what_was_written():
    assert json.dumps(alpha().spec) == json.dumps(ALPHA["spec"])
    assert (alpha().uid, alpha().generation, alpha(metadata__annotations={"a": "b"}).annotations) == ("u-1", 3, {"a": "b"})


def test_anything_goes_where_the_systems_are_not_known():
    strict = Allowed(frozenset(), aic_systems=frozenset({"h200_sxm", "b200_sxm"}))
    offline = {"config__sweep": {"use_ai_configurator": True, "aic_system": "rtx9999"}}
    assert not faults(changed(ALPHA, **offline))
    assert "no data of 'rtx9999'; use one of b200_sxm, h200_sxm" in fault(changed(ALPHA, **offline), f"{CONFIG}.sweep.aic_system", strict)
    assert "searchStrategy: thorough" in fault(changed(BETA, spec__hardware={"gpuSku": "t4"}), "spec.hardware.gpuSku", strict)
    assert not faults(changed(BETA, spec__hardware={"gpuSku": "t4"}, spec__searchStrategy="thorough"), strict)
