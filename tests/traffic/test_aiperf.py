"""The fixture was written by hand, from the keys that aiperf 0.13 documents."""

import asyncio
import itertools
import json
import os
import sys
from pathlib import Path

import pytest

from sla_planner.errors import EngineError, UsageError
from sla_planner.traffic.aiperf import RESULT_NAME, AiperfShape, Spread, command, find, measure, parse, read

FIXTURE = Path(__file__).parents[1] / "data" / "aiperf" / RESULT_NAME
SHAPE = AiperfShape("http://127.0.0.1:8000/v1", "m", isl_tokens=512, osl_tokens=150, concurrency=16, requests=16)


def fixture(**changes):
    content = json.loads(FIXTURE.read_text()) | changes
    return json.dumps({key: value for key, value in content.items() if value is not ...})


def test_a_result_in_our_terms():
    result = read(FIXTURE)
    assert (result.version, result.requests, result.duration_s) == ("0.13.0", 16, 1.9)
    assert result.ttft == Spread(83.2, 82.9, 95.5)
    assert result.itl == Spread(11.6, 11.6, 11.9)
    assert (result.isl_tokens, result.osl_tokens, result.output_tokens_per_s) == (512.0, 150.0, 1266.0)
    assert result.warnings == ()


@pytest.mark.parametrize(("unit", "value"), [("ms", 250.0), ("s", 0.25), ("sec", 0.25), ("us", 250_000.0), ("ns", 250_000_000.0)])
def test_units_become_milliseconds(unit, value):
    result = parse(fixture(time_to_first_token={"unit": unit, "avg": value, "p50": value / 2}))
    assert result.ttft.mean_ms == pytest.approx(250.0)
    assert result.ttft.p50_ms == pytest.approx(125.0)
    assert result.ttft.p99_ms is None


def test_fields_of_other_versions_may_be_absent_or_bare_numbers():
    gone = dict.fromkeys(["aiperf_version", "inter_token_latency", "input_sequence_length", "is_complete", "error_summary"], ...)
    result = parse(fixture(**gone, request_count=5, a_new_one={"unit": "x"}))
    assert (result.version, result.requests, result.itl, result.isl_tokens, result.warnings) == ("unknown", 5, None, None, ())


def test_what_went_wrong_is_a_warning():
    errors = [{"error_details": {"code": 400, "type": "BadRequest", "message": "unknown field\nnvext"}, "count": 3}, {"type": "Timeout"}]
    result = parse(fixture(is_complete=False, error_summary=errors))
    assert result.warnings == (
        "aiperf's run is not complete",
        "3 of aiperf's requests failed: unknown field nvext",
        "1 of aiperf's requests failed: Timeout",
    )


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "no JSON"),
        ("[1]", "not a result of aiperf"),
        ("{}", "neither time_to_first_token nor inter_token_latency"),
        (fixture(time_to_first_token={"unit": "parsec", "avg": 1}), "time_to_first_token: unit is 'parsec'"),
        (fixture(time_to_first_token={"unit": "ms", "avg": "fast"}), "time_to_first_token: avg is 'fast'"),
        (fixture(inter_token_latency={"unit": "ms", "avg": float("nan")}), "inter_token_latency: avg is nan"),
        (fixture(inter_token_latency={"unit": "ms", "avg": 1, "p50": -1}), "inter_token_latency: p50 is -1"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, text, told):
    path = tmp_path / RESULT_NAME
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        read(path)
    assert str(path) in caught.value.message
    assert told in caught.value.message


def test_no_file_is_told(tmp_path):
    with pytest.raises(UsageError, match=r"cannot read .*: No such file"):
        read(tmp_path / "none.json")
    with pytest.raises(UsageError, match=f"no {RESULT_NAME} below {tmp_path}"):
        find(tmp_path)


def test_the_newest_result_is_found(tmp_path):
    for age, folder in enumerate(["new/deep", "old"]):
        path = tmp_path / folder / RESULT_NAME
        path.parent.mkdir(parents=True)
        path.write_text("{}")
        os.utime(path, (1e9 - age, 1e9 - age))
    assert find(tmp_path) == tmp_path / "new/deep" / RESULT_NAME


def test_the_arguments_fix_both_lengths():
    arguments = command(SHAPE, Path("out"))
    pairs = list(itertools.pairwise(arguments))
    assert arguments[:3] == ["aiperf", "profile", "--streaming"]
    for pair in [
        ("--url", "http://127.0.0.1:8000"),
        ("--tokenizer", "m"),
        ("--synthetic-input-tokens-mean", "512"),
        ("--output-tokens-mean", "150"),
        ("--extra-inputs", "max_tokens:150"),
        ("--extra-inputs", "min_tokens:150"),
        ("--extra-inputs", "ignore_eos:true"),
        ("--concurrency", "16"),
        ("--request-count", "16"),
        ("--num-dataset-entries", "16"),
        ("--artifact-dir", "out"),
    ]:
        assert pair in pairs
    assert not any("nvext" in argument for argument in arguments)


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """`installed(lines)`: a program named aiperf, alone on PATH, in Python; `out` is its artifact folder, `result` the fixture."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))

    def install(*lines):
        head = [f"#!{sys.executable}", "import pathlib, shutil, sys, time", f"result = {str(FIXTURE)!r}"]
        program = folder / "aiperf"
        program.write_text("\n".join([*head, "out = pathlib.Path(sys.argv[sys.argv.index('--artifact-dir') + 1])", *lines]) + "\n")
        program.chmod(0o755)

    return install


def test_a_run_gives_its_result(installed, tmp_path):
    installed("(out / 'run').mkdir(parents=True)", "shutil.copy(result, out / 'run')", "print('x' * 100_000)")
    assert asyncio.run(measure(SHAPE, tmp_path / "out")) == read(FIXTURE)


def test_not_installed(installed, tmp_path):
    with pytest.raises(UsageError, match="aiperf is not on PATH; pip install aiperf"):
        asyncio.run(measure(SHAPE, tmp_path))


def test_a_failed_run_tells_its_last_words(installed, tmp_path):
    installed("print('many lines\\n' * 100)", "sys.exit('tokenizer m\\nnot found')")
    with pytest.raises(EngineError, match=r"exit code 1: .*tokenizer m not found"):
        asyncio.run(measure(SHAPE, tmp_path))


def test_cancelling_ends_the_program(installed, tmp_path):
    installed("import os", f"pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(os.getpid()))", "time.sleep(600)")

    async def run():
        running = asyncio.create_task(measure(SHAPE, tmp_path))
        while not (tmp_path / "pid").is_file() or not (tmp_path / "pid").read_text():
            await asyncio.sleep(0.01)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(run())
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
