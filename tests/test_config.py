"""Settings: priority, sources, and that whatever a user writes ends in a checked configuration or one clear line."""

import string
from pathlib import Path
from typing import Annotated

import click
import pytest
import yaml
from click.testing import CliRunner
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import Field

from sla_planner.config import Config, Setting, all_entries, load, options_of
from sla_planner.errors import PlannerError, UsageError
from sla_planner.flag_reference import STAGES, reference
from sla_planner.plan.settings import Predictor, RoleLimits, Sizing
from sla_planner.planner_config import PlannerConfig, TargetConfig

ROOT = Path(__file__).parents[1]
NEEDED = {"prometheus_url": "http://prometheus:9090", "virtual_target": "file:scale.json"}


def planner(flags=(), environment=None, file=None):
    return load(PlannerConfig, NEEDED | dict(flags) | ({"config": str(file)} if file else {}), environment or {})


def target(**flags):
    return planner(flags).config.targets[0]


def refusal(**given):
    with pytest.raises(UsageError) as caught:
        planner(**given)
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.fixture
def written(tmp_path):
    def write(text):
        file = tmp_path / "planner.yaml"
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        return file

    return write


class TestPriority:
    def test_a_flag_beats_a_variable_beats_the_file_beats_the_default(self, written):
        file = written("ttft: 100\nitl: 10\nmin_endpoint: 2")
        loaded = planner({"ttft": "300"}, {"SLA_PLANNER_TTFT": "200", "SLA_PLANNER_ITL": "20"}, file)
        one = loaded.config.targets[0]
        assert (one.ttft, one.itl, one.min_endpoint, one.attainment) == (300.0, 20.0, 2, 0.99)
        assert [loaded.sources.get(f"targets[0].{name}") for name in ("ttft", "itl", "min_endpoint", "attainment")] == [
            "flag --ttft",
            "env SLA_PLANNER_ITL",
            f"file {file}: min_endpoint",
            None,
        ]

    def test_top_level_keys_are_defaults_of_all_targets_and_flags_override_all(self, written):
        file = written(
            "ttft: 100\nmin-endpoint: 2\nvirtual_target: file:default.json\n"
            "targets:\n  - {name: chat, virtual_target: 'file:chat.json'}\n  - {name: code, ttft: 900, itl: 20}\n"
        )
        flags = {"config": str(file), "prometheus_url": "http://p", "itl": "30"}
        chat, code = load(PlannerConfig, flags, {}).config.targets
        assert [(t.name, t.ttft, t.itl, t.min_endpoint) for t in (chat, code)] == [("chat", 100, 30, 2), ("code", 900, 30, 2)]
        assert [t.virtual_target for t in (chat, code)] == ["file:chat.json", "file:default.json"]

    def test_the_file_can_be_named_by_a_variable(self, written):
        assert load(PlannerConfig, NEEDED, {"SLA_PLANNER_CONFIG": str(written("ttft: 123"))}).config.targets[0].ttft == 123

    def test_an_empty_variable_is_not_set(self):
        assert planner(environment={"SLA_PLANNER_TTFT": ""}).config.targets[0].ttft == 500

    def test_an_empty_file_changes_nothing(self, written):
        assert planner(file=written("# all defaults\n")).config == planner().config

    def test_the_reference_variable_for_prometheus(self):
        loaded = load(PlannerConfig, {"virtual_target": "file:x"}, {"PROMETHEUS_ENDPOINT": "http://prometheus:9090"})
        assert loaded.config.targets[0].prometheus_url == "http://prometheus:9090"

    def test_pages_to_scrape_replace_a_prometheus_of_lower_priority(self):
        one = load(PlannerConfig, {"virtual_target": "file:x", "scrape_url": ("http://a/metrics",)}, {"PROMETHEUS_ENDPOINT": "http://p"})
        assert one.config.targets[0].prometheus_url is None
        assert one.config.targets[0].scrape_url == ("http://a/metrics",)

    def test_a_list_in_a_variable_is_split_at_commas_and_spaces(self):
        environment = {"SLA_PLANNER_SCRAPE_URL": "http://a/metrics, http://b/metrics"}
        one = load(PlannerConfig, {"virtual_target": "file:x"}, environment).config.targets[0]
        assert one.scrape_url == ("http://a/metrics", "http://b/metrics")

    def test_a_switch_set_in_the_file_can_be_taken_back(self, written):
        file = written("no_correction: true")
        assert planner(file=file).config.targets[0].no_correction is True
        assert planner({"no_correction": False}, file=file).config.targets[0].no_correction is False


class TestRefusals:
    @pytest.mark.parametrize(
        ("flags", "said"),
        [
            ({"ttft": "0.5"}, "flag --ttft: 0.5 ms looks like seconds; use 500 for 0.5 s"),
            ({"itl": "0.05"}, "flag --itl: 0.05 ms looks like seconds; use 50 for 0.05 s"),
            ({"ttft": "fast"}, "flag --ttft: 'fast' is not allowed; use a number > 0, in ms"),
            ({"ttft": "nan"}, "flag --ttft: 'nan' is not allowed; use a number > 0, in ms"),
            ({"ttft": "-1"}, "flag --ttft: '-1' is not allowed; use a number > 0, in ms"),
            ({"attainment": "99"}, "flag --attainment: '99' is not allowed; use a number > 0 and < 1"),
            ({"sizing": "risky"}, "flag --sizing: 'risky' is not allowed; use one of mean, risk"),
            ({"min_endpoint": "1.5"}, "flag --min-endpoint: '1.5' is not allowed; use a whole number >= 1"),
            ({"name": "a/b"}, "flag --name: 'a/b' is not allowed; use letters, digits, dot, _ and -, at most 63"),
            ({"virtual_target": "consul://host"}, "flag --virtual-target: 'consul://host' is not allowed; use file:PATH or etcd://HOST:PORT"),
            ({"virtual_target": "etcd://host:2379"}, "flag --virtual-target: target default: keys in etcd need a namespace; give --namespace"),
            (
                {"min_decode_replicas": "3", "max_decode_replicas": "2"},
                "flag --min-decode-replicas, flag --max-decode-replicas: target default: at least 3 and at most 2 decode workers; "
                "raise the most or lower the fewest",
            ),
            (
                {"max_gpu_budget": "5", "prefill_engine_num_gpu": "4", "decode_engine_num_gpu": "2"},
                "flag --max-gpu-budget: target default: a budget of 5 GPUs does not hold the smallest fleet (1 prefill x 4 GPU + 1 decode x 2 GPU); "
                "raise --max-gpu-budget to 6 or more, or -1 for no limit",
            ),
        ],
    )
    def test_flags(self, flags, said):
        assert refusal(flags=flags) == said

    def test_a_variable_is_named_with_its_value(self):
        said = refusal(environment={"SLA_PLANNER_MAX_GPU_BUDGET": "many"})
        assert said == "env SLA_PLANNER_MAX_GPU_BUDGET: 'many' is not allowed; use a whole number >= -1"

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("tfft: 5", "unknown key 'tfft'; did you mean ttft?"),
            ("targets: [{name: a}, {tfft: 5}]", "unknown key targets[1].'tfft'; did you mean ttft?"),
            ("targets: [{once: true}]", "targets[0].once belongs to the whole process; move it to the top level"),
            ("3: 4", "unknown key 3"),
            ("ttft: '300'", "ttft: '300' is not allowed; use a number > 0, in ms"),
            ("ttft: true", "ttft: True is not allowed; use a number > 0, in ms"),
            ("targets: [{ttft: .nan}]", "targets[0].ttft: nan is not allowed; use a number > 0, in ms"),
            ("min-endpoint: 1\nmin_endpoint: 2", "min_endpoint is given twice, with - and with _; remove one"),
            ("ttft: 1\nttft: 2", "line 2: duplicate key 'ttft'; correct the YAML"),
            ("targets: [{name: a,\n  ttft: 1, ttft: 2}]", "line 2: duplicate key 'ttft'; correct the YAML"),
            ("[1, 2]", "list at the top level; write `key: value` lines"),
            ("ttft: 300\n itl: 3", "line 2: mapping values are not allowed here; correct the YAML"),
            ("a: !!int ''", "not readable as YAML (IndexError); correct the YAML"),
            ("a: 1" + "0" * 5000, "not readable as YAML (ValueError); correct the YAML"),
            ("[" * 1000, "not readable as YAML (RecursionError); correct the YAML"),
            ("a: !!python/object/apply:os.system [x]", "line 1: could not determine a constructor for the tag"),
            (b"ttft: \xff", "byte 6 is not UTF-8; save the file as UTF-8"),
            ("targets: {name: a}", "targets is not a list of mappings; write `targets:` and one `- name: ...` per entry"),
            ("targets: []", "targets is not a list of mappings"),
        ],
    )
    def test_files(self, written, text, said):
        file = written(text)
        assert f"file {file}: {said}" in refusal(file=file)

    def test_a_file_that_is_not_there(self, tmp_path):
        assert refusal(file=tmp_path / "no.yaml") == f"file {tmp_path / 'no.yaml'}: No such file or directory; check the path and its permissions"
        assert "Is a directory" in refusal(file=tmp_path)

    def test_nothing_to_observe_and_two_things_to_observe(self):
        with pytest.raises(UsageError, match="target default: nothing to read metrics from; give either --prometheus-url or --scrape-url"):
            load(PlannerConfig, {"virtual_target": "file:x"}, {})
        assert refusal(flags={"scrape_url": ("http://a/metrics",)}).startswith("flag --prometheus-url, flag --scrape-url: target default: both")

    def test_nothing_to_scale(self):
        with pytest.raises(UsageError, match=r"target default: nothing to scale; give --virtual-target file:PATH or etcd://HOST:PORT"):
            load(PlannerConfig, {"prometheus_url": "http://p"}, {})
        with pytest.raises(UsageError, match=r"nothing to scale; give --graph-deployment NAME, or both --prefill-target and --decode-target"):
            load(PlannerConfig, {"prometheus_url": "http://p", "environment": "kubernetes"}, {})
        with pytest.raises(UsageError, match=r"nothing to scale; add --environment kubernetes"):
            load(PlannerConfig, {"prometheus_url": "http://p", "prefill_target": "deployment/a"}, {})

    def test_targets_must_be_told_apart(self, written):
        assert "two targets are named chat" in refusal(file=written("targets: [{name: chat}, {name: chat}]"))
        assert "targets a and b write to the same file:scale.json" in refusal(file=written("targets: [{name: a}, {name: b}]"))

    def test_two_targets_may_share_an_etcd_in_their_own_namespaces(self, written):
        file = written("targets: [{name: a, namespace: x}, {name: b, namespace: y}]")
        assert len(planner({"virtual_target": "etcd://host:2379"}, file=file).config.targets) == 2

    def test_what_is_scaled_in_kubernetes_comes_from_the_graph_around_the_planner_or_from_flags(self):
        given = {"prometheus_url": "http://p", "environment": "kubernetes"}
        inside = {"DYN_PARENT_DGD_K8S_NAME": "chat", "DYN_NAMESPACE": "dynamo-chat"}
        one = load(PlannerConfig, given, inside).config.targets[0]
        assert (one.graph_deployment, one.namespace) == ("chat", "dynamo-chat")
        pair = {"prefill_target": "deployment/a", "decode_target": "sts/b"}
        one = load(PlannerConfig, given | pair, inside).config.targets[0]
        assert (one.graph_deployment, one.prefill_target, one.decode_target) == (None, "deployment/a", "sts/b")
        with pytest.raises(UsageError, match=r"both a graph and objects of its roles are given; give one of both"):
            load(PlannerConfig, given | pair | {"graph_deployment": "chat"}, {})

    @pytest.mark.parametrize(
        ("first", "second", "told"),
        [
            ("graph_deployment: g", "graph_deployment: g", "write to the same DynamoGraphDeployment/g"),
            ("graph_deployment: g", "graph_deployment: g, target_namespace: x", None),
            ("prefill_target: deploy/a, decode_target: deploy/b", "prefill_target: sts/a, decode_target: deployments.apps/b", "deployments.apps/b"),
            ("prefill_target: deploy/a, decode_target: deploy/b", "prefill_target: sts/a, decode_target: sts/b", None),
        ],
    )
    def test_two_targets_never_scale_the_same_object(self, written, first, second, told):
        file = written(f"environment: kubernetes\nprometheus_url: http://p\ntargets: [{{name: a, {first}}}, {{name: b, {second}}}]")
        if told:
            with pytest.raises(UsageError, match=f"targets a and b write to the same .*{told.split(' ')[-1]}"):
                load(PlannerConfig, {"config": str(file)}, {})
        else:
            assert len(load(PlannerConfig, {"config": str(file)}, {}).config.targets) == 2


class TestExplaining:
    def test_the_start_up_lines_name_every_setting_with_its_source_and_no_password(self):
        loaded = planner({"prometheus_url": "https://ops:s3cret@prometheus:9090"}, {"SLA_PLANNER_ITL": "20"})
        process, one = loaded.describe()
        assert process.startswith("sla-planner 0.")
        assert "once=false (default)" in process
        assert one.startswith("targets[0]: name=default (default), ttft=500 (default), itl=20 (env SLA_PLANNER_ITL)")
        assert "prometheus_url=https://ops:***@prometheus:9090 (flag --prometheus-url)" in one
        assert {setting.path.rpartition(".")[2] for setting in loaded.settings()} == set(all_entries(PlannerConfig))

    @pytest.mark.parametrize("url", ["ftp://ops:s3cret@p", "http://ops:s3/cret@p", "http://ops:s3@cret@p:x", "http:// ops:s3cret@p"])
    def test_a_refused_url_shows_no_password(self, url):
        said = refusal(flags={"prometheus_url": url})
        assert "cret" not in said
        assert "use an http:// or https:// URL" in said

    def test_a_mistyped_variable_is_pointed_out_and_a_service_link_is_not_taken_for_a_port(self):
        environment = {
            "SLA_PLANNER_TTTF": "1",
            "SLA_PLANNER_PROMETHEUS_PORT": "tcp://10.0.0.7:9090",
            "SLA_PLANNER_PROMETHEUS_SERVICE_HOST": "10.0.0.7",
        }
        loaded = planner(environment=environment)
        assert loaded.config.prometheus_port == 0
        assert "SLA_PLANNER_TTTF (did you mean SLA_PLANNER_TTFT?)" in loaded.describe()[-1]


class TestPlanSettings:
    def test_every_promise_and_limit_arrives(self):
        promise = {"ttft": "300", "itl": "30", "attainment": "0.95"}
        algorithm = {"sizing": "mean", "load_predictor": "arima", "no_correction": True, "load_prediction_window_size": "20"}
        times = {"adjustment_interval": "60", "startup_s": "90", "grace_s": "45"}
        limits = {"max_gpu_budget": "32", "min_endpoint": "2", "min_decode_replicas": "3", "max_prefill_replicas": "7", "decode_engine_num_gpu": "4"}
        one = target(**promise, **algorithm, **times, **limits)
        plan = one.plan_settings(prefill_gpus=2, decode_gpus=8)
        assert (plan.sla.ttft_ms, plan.sla.itl_ms, plan.sla.attainment) == (300.0, 30.0, 0.95)
        assert (plan.sizing, plan.predictor, plan.correction, plan.history_window) == (Sizing.MEAN, Predictor.ARIMA, False, 20)
        assert (plan.interval_s, plan.startup_s, plan.grace_s, plan.max_gpu_budget) == (60.0, 90.0, 45.0, 32)
        assert plan.prefill == RoleLimits(min_workers=2, max_workers=7, gpus_per_worker=2)
        assert plan.decode == RoleLimits(min_workers=3, max_workers=None, gpus_per_worker=4)

    def test_the_profile_can_make_the_budget_too_small(self):
        one = target(max_gpu_budget="6")
        assert one.plan_settings(2, 4).max_gpu_budget == 6
        with pytest.raises(UsageError, match="raise --max-gpu-budget to 7 or more"):
            one.plan_settings(3, 4)


class TestOptions:
    def test_every_setting_is_a_flag_with_its_unit_and_default(self):
        @click.command()
        @options_of(PlannerConfig)
        def command(**flags):
            click.echo(load(PlannerConfig, flags, {}).config.targets[0].model_dump_json())

        text = " ".join(CliRunner().invoke(command, ["--help"]).output.split())
        assert "--ttft, --ttft-target X promised time to first token [ms; default 500]" in text
        for entry in all_entries(PlannerConfig).values():
            assert all(flag in text for flag in entry.flags)

        flags = ["--virtual-target", "file:x", "--scrape-url", "http://a/m", "--scrape-url", "http://b/m", "--ttft-target", "250", "--no-correction"]
        result = TargetConfig.model_validate_json(CliRunner().invoke(command, flags).output)
        assert (result.scrape_url, result.ttft, result.no_correction) == (("http://a/m", "http://b/m"), 250.0, True)

    def test_a_stage_without_sections(self):
        class Small(Config):
            port: Annotated[int, Field(ge=1), Setting("port to listen on")] = 8000

        assert load(Small, {"port": "80"}, {}).config.port == 80
        with pytest.raises(UsageError, match="flag --port: '0' is not allowed; use a whole number >= 1"):
            load(Small, {"port": "0"}, {})

    @pytest.mark.parametrize("stage", STAGES)
    def test_the_committed_flag_reference_is_current(self, stage):
        assert (ROOT / "jobs" / stage / "flags.md").read_text() == reference(stage, STAGES[stage]), "run `make docs`"


KEYS = st.sampled_from([*all_entries(PlannerConfig), "targets", "load-predictor", "tfft"]) | st.text(max_size=5)
SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.sampled_from(["http://p", "file:x", "mean", "[", "etcd://["])
)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=8)
quick = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def loads_or_explains(flags, environment=None):
    """Whether the settings load and explain themselves, or are refused in one line. Any other exception fails the test by itself."""
    try:
        return all(len(line.splitlines()) == 1 for line in load(PlannerConfig, flags, environment or {}).describe())
    except PlannerError as error:
        return len(str(error).splitlines()) == 1


@quick
@given(st.dictionaries(KEYS, VALUES, max_size=6))
@example({"targets": [{"name": "a", "ttft": 300}]})
def test_any_document_is_loaded_or_refused_in_one_line(tmp_path, document):
    file = tmp_path / "fuzz.yaml"
    file.write_text(yaml.safe_dump(document, allow_unicode=True), encoding="utf-8")
    assert loads_or_explains(NEEDED | {"config": str(file)})


@quick
@given(
    st.binary(max_size=60)
    | st.text(string.printable, max_size=60).map(str.encode)
    | st.text("[]{}:,-&*!<>|'\"\n a0.\t%@=", max_size=40).map(str.encode)
)
@example(b"a: !!bool maybe")
@example(b"a: !!timestamp x")
@example(b"&a [*a]")
@example(b"? {a: 1}\n: 2")
def test_any_bytes_are_loaded_or_refused_in_one_line(tmp_path, content):
    file = tmp_path / "fuzz.yaml"
    file.write_bytes(content)
    assert loads_or_explains(NEEDED | {"config": str(file)})


@quick
@given(
    st.dictionaries(
        st.sampled_from([v for e in all_entries(PlannerConfig).values() for v in e.variables]), st.text(min_size=1, max_size=20) | SCALARS.map(str)
    )
)
@example({"SLA_PLANNER_NAME": "\udcff", "SLA_PLANNER_TTFT": "\udcff"})
@example({"SLA_PLANNER_MODEL_NAME": "\udcff"})
@example({"SLA_PLANNER_STATE": "a\0b"})
@example({"SLA_PLANNER_TTFT": "9" * 400})
@example({"SLA_PLANNER_MIN_ENDPOINT": "9" * 5000})
def test_any_variable_is_loaded_or_refused_in_one_line(environment):
    assert loads_or_explains(NEEDED, environment)


def test_one_entry_of_a_list_needs_no_list(tmp_path):
    file = tmp_path / "planner.yaml"
    file.write_text("scrape_url: http://127.0.0.1:8000/metrics\nvirtual_target: file:fleet.json\n")
    assert load(PlannerConfig, {"config": str(file)}, {}).config.targets[0].scrape_url == ("http://127.0.0.1:8000/metrics",)
