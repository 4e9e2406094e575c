"""The command line: nothing heavy before it is needed, one line per error, exit codes as documented."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import click
import pytest

from sla_planner import __version__, cli
from sla_planner.errors import InfeasibleError, InterruptedRun, UnreachableError, UsageError

HEAVY = ("aiohttp", "kubernetes", "matplotlib", "numpy", "prometheus_api_client", "scipy", "statsmodels")
STAGES_DIR = Path(cli.__file__).parent / "stages"
LOADED_AFTER = """
import contextlib, io, json, sys
from sla_planner import cli
with contextlib.redirect_stdout(io.StringIO()) as out:
    code = cli.run(sys.argv[1:])
print(json.dumps({"code": code, "text": out.getvalue(), "modules": sorted(sys.modules)}))
"""


def loaded_after(*args):
    run = subprocess.run([sys.executable, "-c", LOADED_AFTER, *args], capture_output=True, text=True, check=True)
    return json.loads(run.stdout)


@pytest.fixture
def stage(monkeypatch):
    """Registers a stage `trial` that runs `action`."""

    def register(action):
        module = ModuleType("sla_planner.stages.trial")
        module.command = click.command("trial")(click.option("--number", type=int)(lambda number: action()))
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setitem(cli.STAGES, "trial", "a stage of this test")

    return register


def raising(error):
    def action():
        raise error

    return action


class TestLazy:
    def test_the_help_lists_every_stage_and_imports_none(self):
        seen = loaded_after("--help")
        assert all(name in seen["text"] for name in cli.STAGES)
        assert not [name for name in seen["modules"] if name.startswith("sla_planner.stages")]

    @pytest.mark.parametrize("name", cli.STAGES)
    def test_the_help_of_a_stage_loads_nothing_heavy(self, name):
        seen = loaded_after(name, "--help")
        assert seen["code"] == 0
        assert seen["text"].startswith(f"Usage: sla-planner {name} ")
        assert sorted(set(HEAVY) & set(seen["modules"])) == []

    def test_every_module_with_a_command_is_in_the_table(self):
        modules = {file.stem.replace("_", "-") for file in STAGES_DIR.glob("*.py") if "\ndef command(" in file.read_text()}
        assert modules == set(cli.STAGES)


class TestErrors:
    @pytest.mark.parametrize(
        ("error", "code"),
        [
            (UsageError("flag --x: 3", hint="use 4"), 2),
            (InfeasibleError("TTFT 1 ms cannot be met", hint="nearest is 9 ms"), 3),
            (UnreachableError("no answer", hint="is it up?"), 4),
            (InterruptedRun("stopped", hint="start it again"), 75),
        ],
    )
    def test_an_error_is_one_line_and_its_exit_code(self, stage, capsys, error, code):
        stage(raising(error))
        assert cli.run(["trial"]) == code
        assert capsys.readouterr().err == f"error: {error.message}; {error.hint}\n"

    def test_a_message_of_several_lines_is_told_in_one(self, stage, capsys):
        stage(raising(UsageError("broken\nvalue")))
        cli.run(["trial"])
        assert capsys.readouterr().err == "error: broken value\n"

    def test_ctrl_c(self, stage, capsys):
        stage(raising(KeyboardInterrupt()))
        assert cli.run(["trial"]) == 75
        assert capsys.readouterr().err == "error: interrupted\n"

    def test_a_bug_keeps_its_traceback(self, stage):
        stage(raising(ZeroDivisionError()))
        with pytest.raises(ZeroDivisionError):
            cli.run(["trial"])

    def test_a_broken_pipe_that_is_not_stdout_is_a_bug(self, stage):
        stage(raising(BrokenPipeError()))
        with pytest.raises(BrokenPipeError):
            cli.run(["trial"])

    @pytest.mark.parametrize(
        ("args", "said"),
        [
            (["plnner"], "error: unknown stage 'plnner'; did you mean planner?"),
            (["x"], f"error: unknown stage 'x'; stages: {', '.join(cli.STAGES)}, trial"),
            (["trial", "--nmber", "3"], "error: No such option '--nmber'. Did you mean '--number'?; see sla-planner trial --help"),
            (["trial", "--number", "x"], "error: Invalid value for '--number': 'x' is not a valid integer; see sla-planner trial --help"),
            (["trial", "more"], "error: Got unexpected extra argument (more); see sla-planner trial --help"),
            (["--verbose"], "error: No such option '--verbose'. Did you mean '--version'?; see sla-planner --help"),
        ],
    )
    def test_a_wrong_call_is_one_line(self, stage, capsys, args, said):
        stage(lambda: None)
        assert cli.run(args) == 2
        assert capsys.readouterr().err.rstrip("\n") == said


class TestProcess:
    def test_the_console_script_and_the_module_are_the_same(self):
        script = subprocess.run([Path(sys.executable).parent / "sla-planner", "--version"], capture_output=True, text=True, check=True)
        module = subprocess.run([sys.executable, "-m", "sla_planner", "--version"], capture_output=True, text=True, check=True)
        assert script.stdout == module.stdout == f"sla-planner {__version__}\n"

    def test_no_arguments_print_the_help(self, capsys):
        assert cli.run([]) == 0
        assert capsys.readouterr().out.startswith("Usage: sla-planner")

    def test_a_reader_that_has_gone_is_no_traceback(self):
        read, write = os.pipe()
        os.close(read)
        run = subprocess.run([sys.executable, "-m", "sla_planner", "--help"], stdout=write, stderr=subprocess.PIPE, text=True)
        os.close(write)
        assert (run.returncode, run.stderr) == (141, "")
