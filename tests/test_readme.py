"""Every command in a README works.

A ```bash block after `<!-- run -->` is given to bash as it stands, with port 8000 replaced by a free one and /tmp by an empty folder. Blocks after
`<!-- cluster -->` are run by tests/e2e/test_quick_start.py. In all other blocks every command is checked: `make` knows the target, `sla-planner` the
stage and its flags. ```yaml blocks are configurations, of the stage whose folder the README lies in, else of the planner, and must load. Relative
links must lead somewhere.
"""

import contextlib
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from pathlib import Path

import click
import pytest

from sla_planner.cli import PROGRAM, group
from sla_planner.config import load
from sla_planner.errors import UsageError
from sla_planner.flag_reference import STAGES
from sla_planner.planner_config import PlannerConfig

ROOT = Path(__file__).parents[1]
FOLDERS = ("", "*/", "jobs/*/", "manifests/*/", "tests/e2e/")
READMES = sorted(file for folder in FOLDERS for file in ROOT.glob(f"{folder}README.md"))
BLOCK = re.compile(r"^(?:<!-- (run|cluster) -->\n)?```(bash|yaml)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BIN = Path(sys.executable).parent
SHOWS = {
    "load-test": r"requests inside",
    "planner": r"Scaling prefill workers: 1 -> [2-9]",
    "profile-sweep": r"(?s)In use: 1?\d\d %.*Suggested prefill TP:1 \(TTFT .* ms, .*Suggested decode TP:1 \(ITL [4-8]\.",
    "profile show": r"law error .* on average",
}
OTHER_COMMANDS = {"source", "cat", "export", "kubectl", "for"}


def blocks(language, run=""):
    return [
        pytest.param(
            text,
            *([STAGES.get(readme.parent.name, PlannerConfig)] if kind == "yaml" else []),
            id=f"{readme.parent.name}: {text.splitlines()[0][:40]}",
        )
        for readme in READMES
        for marked, kind, text in BLOCK.findall(readme.read_text())
        if kind == language and marked == run
    ]


def commands(text):
    for line in text.replace("\\\n", " ").splitlines():
        words = [word for word in shlex.split(line, comments=True) if word != "&"]
        if words:
            yield words


def check(words):
    program, *args = words
    if program == "make":
        subprocess.run(["make", "-n", *args], cwd=ROOT, check=True, capture_output=True)
    elif program == PROGRAM:
        context = click.Context(group, info_name=PROGRAM)
        name, stage, rest = group.resolve_command(context, args)
        context = stage.make_context(name, rest, parent=context)
        if isinstance(stage, click.Group):
            name, stage, rest = stage.resolve_command(context, rest)
            context = stage.make_context(name, rest, parent=context)
        if name in STAGES and not context.params["config"]:
            load(STAGES[name], context.params, {})
    elif (ROOT / program).exists():
        assert os.access(ROOT / program, os.X_OK)
    elif program.startswith(".venv/bin/"):
        assert (BIN / Path(program).name).exists()
    else:
        assert program in OTHER_COMMANDS, f"no check for {program}"


@pytest.mark.parametrize("text", blocks("bash"))
def test_the_commands_exist_and_take_these_flags(text):
    for words in commands(text):
        check(words)


@pytest.mark.parametrize(("text", "settings"), blocks("yaml"))
def test_the_configurations_load(text, settings, tmp_path):
    file = tmp_path / "settings.yaml"
    file.write_text(text)
    assert load(settings, {"config": str(file)}, {}).sources


@pytest.mark.e2e
@pytest.mark.parametrize("text", blocks("bash", run="run"))
def test_the_commands_run_as_pasted(text, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    script = text.replace("8000", str(port)).replace("/tmp", str(tmp_path))
    environment = os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    shell = subprocess.Popen(
        ["bash", "-euc", script], cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )
    try:
        output = shell.communicate(timeout=90)[0].decode()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(shell.pid, signal.SIGTERM)
    assert shell.returncode == 0, output
    wanted = [pattern for stage, pattern in SHOWS.items() if f"{PROGRAM} {stage}" in text]
    assert wanted, "no pattern says what these commands show"
    for pattern in wanted:
        assert re.search(pattern, output), output


@pytest.mark.parametrize("readme", READMES, ids=lambda file: file.parent.name)
def test_the_links_lead_somewhere(readme):
    text = re.sub(r"<!--.*?-->", "", readme.read_text(), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)#]+)", text):
        assert link.startswith("https://") or (readme.parent / link).exists(), link


@pytest.mark.parametrize(
    "words", [["make", "no-such-target"], ["sla-planner", "planner", "--no-such-flag"], ["no-such-program"], ["sla-planner", "x"]], ids=" ".join
)
def test_a_wrong_command_is_noticed(words):
    with pytest.raises((subprocess.CalledProcessError, click.UsageError, UsageError, AssertionError)):
        check(words)
