"""The sweep's settings: what is refused, in which words, and what the sweep is handed."""

import click
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from sla_planner.config import all_entries, load, options_of
from sla_planner.errors import PlannerError, UsageError
from sla_planner.model.sla import Sla
from sla_planner.sweep.estimate import EstimateOptions
from sla_planner.sweep.result import Goal
from sla_planner.sweep.space import Hardware
from sla_planner.sweep_config import SweepConfig
from sla_planner.traffic.prompt_form import PromptForm

PROCESS = {"engine_command": "serve --port {port} --tp {tp}"}
ENDPOINT = {"endpoint": "http://127.0.0.1:8000"}
OFFLINE = {"use_ai_configurator": True, "aic_system": "h200_sxm", "aic_hf_id": "Qwen/Qwen3-32B"}


def sweep(given=PROCESS, **flags):
    return load(SweepConfig, given | flags, {}).config


def refusal(given=PROCESS, **flags):
    with pytest.raises(UsageError) as caught:
        sweep(given, **flags)
    text = str(caught.value)
    assert "\n" not in text
    return text


class TestDefaults:
    def test_the_goal_is_the_reference_shape_and_promise(self):
        assert sweep().goal() == Goal(Sla(ttft_ms=500, itl_ms=50, attainment=0.99), 3000, 500)

    def test_what_is_told_before_the_start(self):
        assert sweep().estimate_options() == EstimateOptions(start_s=240, prefill_points=8, batched_points=1, decode_points=12, verify=True)
        assert sweep(ENDPOINT).estimate_options().start_s == 0

    def test_everything_else(self):
        config = sweep()
        assert (config.backend, config.output_dir.name, config.verify, config.prompt_form) == ("vllm", "profiling_results", True, None)
        assert config.hardware() == Hardware(None, 8, 8, None, None)  # a process has the GPUs of one machine


class TestSpellings:
    def test_those_of_the_reference_profiler(self):
        config = sweep(OFFLINE, min_num_gpus="2", max_num_gpus="4")
        assert (config.min_num_gpus, config.max_num_gpus) == (2, 4)

        @click.command()
        @options_of(SweepConfig)
        def command(**flags):
            config = load(SweepConfig, flags, {}).config
            click.echo(f"{config.min_num_gpus} {config.max_num_gpus} {config.aic_hf_id} {config.ttft} {config.json_output} {config.verify}")

        flags = "--min-num-gpus-per-engine 2 --max-num-gpus-per-engine 4 --use-ai-configurator --aic-system h200_sxm --aic-model-name QWEN3_32B"
        told = CliRunner().invoke(command, [*flags.split(), "--ttft-target", "200", "--json", "--no-verify"])
        assert told.output == "2 4 QWEN3_32B 200.0 True False\n"

    def test_a_flag_takes_the_place_of_another_source_in_the_file(self, tmp_path):
        file = tmp_path / "sweep.yaml"
        file.write_text("endpoint: http://127.0.0.1:8000\nmax-gpus: 4\n")
        config = load(SweepConfig, PROCESS | {"config": str(file)}, {}).config
        assert (config.source, config.endpoint, config.max_gpus) == ("engine_command", None, 4)


class TestSource:
    def test_none(self):
        flags = "--engine-command TEMPLATE, --endpoint URL, --dgd FILE or --workload FILE"
        assert refusal({}) == f"nothing to measure; give {flags}, or --use-ai-configurator for a computed profile"

    def test_two(self):
        assert refusal(**ENDPOINT) == "flag --engine-command, flag --endpoint: --engine-command and --endpoint are given; give one of them"

    @pytest.mark.parametrize("source", ["dgd", "workload"])
    def test_engines_in_a_cluster_run_side_by_side_where_a_number_of_gpus_is_given(self, source):
        one, several = sweep({source: "engine.yaml"}), sweep({source: "engine.yaml"}, max_gpus=8)
        assert (one.source, one.in_cluster, one.gpus_at_once) == (source, True, None)
        assert (several.gpus_at_once, several.estimate_options().gpus_at_once) == (8, 8)
        assert sweep(PROCESS, max_gpus=8).gpus_at_once is None  # one machine measures one engine

    def test_an_empty_command(self):
        assert refusal({"engine_command": " "}).startswith("flag --engine-command: ' ' is not allowed")


class TestOffline:
    def test_needs_no_engine_and_calibrates_with_one(self):
        assert (sweep(OFFLINE).source, sweep(OFFLINE).calibrates) == (None, False)
        assert sweep(OFFLINE | PROCESS).calibrates
        assert not sweep().calibrates

    @pytest.mark.parametrize("flag", ["aic_system", "aic_hf_id", "aic_backend_version"])
    def test_its_flags_mean_nothing_without_it(self, flag):
        name = f"--{flag.replace('_', '-')}"
        assert refusal(**{flag: "x"}) == f"flag {name}: {name} means nothing without --use-ai-configurator; add it"

    def test_calibrating_needs_both(self):
        assert "--calibrate means nothing without --use-ai-configurator" in refusal(calibrate=True)
        hint = "give --engine-command, --endpoint, --dgd or --workload as well"
        assert f"calibrating needs an engine to measure; {hint}" in refusal(OFFLINE, calibrate=True)

    def test_a_gpu_and_a_model(self):
        assert "needs to know the GPU; give --aic-system, e.g. h200_sxm" in refusal({"use_ai_configurator": True, "model": "m"})
        assert "needs to know the model" in refusal({"use_ai_configurator": True, "aic_system": "h200_sxm"})
        assert sweep({"use_ai_configurator": True, "aic_system": "h200_sxm", "model": "m"}).aic_hf_id is None


class TestLimits:
    def test_more_at_least_than_at_most(self):
        text = refusal(min_num_gpus="8", max_num_gpus="4")
        assert text == "flag --min-num-gpus, flag --max-num-gpus: at least 8 and at most 4 GPUs of one engine; raise the most or lower the fewest"

    def test_a_budget_below_the_smallest_engine(self):
        assert "2 GPUs do not hold an engine of 4" in refusal(min_num_gpus="4", max_gpus="2")

    def test_an_endpoint_is_one_engine(self):
        assert "an endpoint is one engine, not one of 1 to 4 GPUs; give --min-num-gpus 4 as well" in refusal(ENDPOINT, max_num_gpus="4")
        assert sweep(ENDPOINT).hardware() == Hardware(1, 1, 8)
        assert sweep(ENDPOINT, min_num_gpus="4", max_num_gpus="4").hardware() == Hardware(4, 4, 8)

    def test_a_process_has_the_gpus_of_one_machine(self):
        assert sweep(max_num_gpus="16").hardware().max_gpus == 8
        assert sweep(max_num_gpus="16", num_gpus_per_node="16").hardware().max_gpus == 16

    def test_the_hardware_is_as_said(self):
        given = {"min_num_gpus": "2", "max_num_gpus": "4", "num_gpus_per_node": "4", "vram_gib": "79.6", "max_gpus": "6"}
        assert sweep(**given).hardware() == Hardware(2, 4, 4, 79.6, 6)


class TestValues:
    @pytest.mark.parametrize("name", ["max_context_length", "max_kv_tokens"])
    def test_a_request_that_does_not_fit(self, name):
        text = refusal(isl="3000", osl="500", **{name: "3499"})
        assert f"a request of 3000 + 500 = 3500 tokens does not fit 3499; lower --isl or --osl, or raise --{name.replace('_', '-')}" in text
        assert getattr(sweep(isl="3000", osl="500", **{name: "3500"}), name) == 3500

    def test_seconds_in_place_of_milliseconds(self):
        assert refusal(ttft="0.3") == "flag --ttft: 0.3 ms looks like seconds; use 300 for 0.3 s"

    @pytest.mark.parametrize("share", ["0", "1", "99", "nan"])
    def test_the_promised_share(self, share):
        assert refusal(attainment=share) == f"flag --attainment: '{share}' is not allowed; use a number > 0 and < 1"

    @pytest.mark.parametrize(("name", "value"), [("osl", "1"), ("isl", "0"), ("prefill_interpolation_granularity", "3"), ("ready_limit_s", "0")])
    def test_too_little(self, name, value):
        assert f"'{value}' is not allowed" in refusal(**{name: value})

    @pytest.mark.parametrize(
        ("template", "said"),
        [
            ("serve", "does not say where the port goes"),
            ("serve {port} {tp}", "unknown placeholder {tp}; use {port}, {model}, {prefill_tp}"),
            ("serve {port:5}", "unknown placeholder {port:5}"),
            ("serve {port} {", "a brace of the template is not closed"),
        ],
    )
    def test_the_template_of_the_pair(self, template, said):
        assert said in refusal(verify_command=template)

    def test_a_template_with_braces_that_are_meant(self):
        template = "serve {port} {prefill_tp} {decode_tp} --json '{{}}'"
        assert sweep(verify_command=template).verify_command == template

    def test_prompt_forms_are_those_of_the_client(self):
        assert [sweep(prompts=form).prompt_form for form in ("auto", "ids", "text", "chat")] == [None, *PromptForm]


WORDS = st.sampled_from(["1", "4", "-1", "0.2", "true", "http://a", "vllm", "x", "{port}", "{", ""]) | st.text(max_size=6)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.sampled_from([entry.variables[0] for entry in all_entries(SweepConfig).values()]), WORDS, max_size=8))
def test_any_variables_are_loaded_or_refused_in_one_line(environment):
    try:
        lines = load(SweepConfig, {}, environment).describe()
    except PlannerError as error:
        lines = (str(error),)
    assert all(len(line.splitlines()) == 1 for line in lines)
