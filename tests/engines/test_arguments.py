"""Editing command lines: what is ours changes, everything else stays."""

import re
import shlex
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sla_planner.engines.arguments import CommandLine

ENGINE = re.compile(r"dynamo\.vllm|vllm serve")
TP = ("--tensor-parallel-size", "-tp")


def set_tp(arguments, value=4):
    line = CommandLine(arguments, ENGINE)
    line.set(TP, value)
    return line.written()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([], ["--tensor-parallel-size", "4"]),
        (["--model", "m"], ["--model", "m", "--tensor-parallel-size", "4"]),
        (["--tensor-parallel-size", "1", "--model", "m"], ["--tensor-parallel-size", "4", "--model", "m"]),
        (["--tensor-parallel-size=1"], ["--tensor-parallel-size=4"]),
        (["--tensor_parallel_size=1"], ["--tensor_parallel_size=4"]),
        (["-tp", "1"], ["-tp", "4"]),
        (["-tp=1"], ["-tp=4"]),
        (["-tp", "1", "--model", "m", "--tensor-parallel-size", "2"], ["-tp", "4", "--model", "m"]),
        (["--tensor-parallel-size"], ["--tensor-parallel-size", "4"]),
        (["--tensor-parallel-size", "--eager"], ["--tensor-parallel-size", "4", "--eager"]),
        (
            ["mpirun", "-tp", "9", "python3", "-m", "dynamo.vllm"],
            ["mpirun", "-tp", "9", "python3", "-m", "dynamo.vllm", "--tensor-parallel-size", "4"],
        ),
        (["--served-model-name", "vllm", "-tp", "1"], ["--served-model-name", "vllm", "-tp", "4"]),
    ],
)
def test_a_list(before, after):
    assert set_tp(before) == after


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("python3 -m dynamo.vllm --model m", "python3 -m dynamo.vllm --model m --tensor-parallel-size 4"),
        ("python3 -m dynamo.vllm -tp 1 2>&1 | tee /tmp/log", "python3 -m dynamo.vllm -tp 4 2>&1 | tee /tmp/log"),
        ("python3 -m dynamo.vllm 2>&1 | tee -tp 1", "python3 -m dynamo.vllm --tensor-parallel-size 4 2>&1 | tee -tp 1"),
        ("cd /x && A=1 python3 -m dynamo.vllm  --m 'a b'  -tp 1 &", "cd /x && A=1 python3 -m dynamo.vllm  --m 'a b'  -tp 4 &"),
        ("python3 -m dynamo.vllm \\\n  -tp 1 \\\n  --m $M\n", "python3 -m dynamo.vllm \\\n  -tp 4 \\\n  --m $M\n"),
        ("vllm serve m --port ${PORT:-80 80} -tp=1 # one", "vllm serve m --port ${PORT:-80 80} -tp=4 # one"),
        ("# python3 -m dynamo.vllm -tp 1\npython3 -m dynamo.vllm -tp 2", "# python3 -m dynamo.vllm -tp 1\npython3 -m dynamo.vllm -tp 4"),
        ("other --flag; python3 -m dynamo.vllm", "other --flag; python3 -m dynamo.vllm --tensor-parallel-size 4"),
        ("exec run-it --model m -tp 1 > >(tee log)", "exec run-it --model m -tp 4 > >(tee log)"),
        ('vllm serve "$(cat model name)" --x "a\\"b" -tp 1', 'vllm serve "$(cat model name)" --x "a\\"b" -tp 4'),
        ("--model m -tp 1", "--model m -tp 4"),
    ],
)
def test_a_shell_line_stays_byte_for_byte(before, after):
    assert set_tp([before]) == [after]
    assert set_tp(["-c", before]) == ["-c", after]
    assert set_tp(["/bin/bash", "-ec", before]) == ["/bin/bash", "-ec", after]
    assert set_tp([after]) == [after]


def test_dropping_takes_the_value_and_leaves_a_redirection():
    line = CommandLine(["vllm serve m --role x --a > out --role=y --b"], ENGINE)
    line.drop("--role")
    assert line.written() == ["vllm serve m --a > out --b"]


def test_a_flag_that_is_switched_on_twice_stands_once():
    line = CommandLine(["--eager", "--a", "1", "--eager"], ENGINE)
    line.switch_on("--eager")
    assert line.written() == ["--eager", "--a", "1"]
    line.switch_off("--eager")
    assert line.written() == ["--a", "1"]


def test_the_last_of_several_values_is_the_one_in_force():
    line = CommandLine(["-tp", "1", "--tensor-parallel-size=2"], ENGINE)
    assert line.value(*TP) == "2"
    assert CommandLine(['vllm serve m --json \'{"a": "b c"}\''], ENGINE).value("--json") == '{"a": "b c"}'
    assert line.value("--json") is None


WORDS = st.lists(st.text(alphabet="ab -\"'$&|;<>()#\\\n\t\r=é", max_size=8), max_size=6)


@settings(max_examples=60, deadline=None)
@given(WORDS)
def test_a_line_that_is_not_edited_is_what_it_was(words):
    for given_line in ([" ".join(words) + " x"], words):
        assert CommandLine(given_line, ENGINE).written() == given_line


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(alphabet="ab -\"'$&|;<>()#=é", min_size=1, max_size=8), max_size=6))
def test_a_shell_reads_the_edited_line_as_the_given_one_and_the_flag(words):
    line = shlex.join(["python3", "-m", "dynamo.vllm", *words])
    (edited,) = set_tp([line])
    assert shlex.split(edited) == [*shlex.split(line), "--tensor-parallel-size", "4"]


@pytest.mark.parametrize(
    "line",
    [
        "python3 -m dynamo.vllm --a 'b c' \"d $X\" 2>&1 # comment --tensor-parallel-size 1",
        "A=1 python3 -m dynamo.vllm \\\n  --a b \\\n  --c=d\n",
        "true && python3 -m dynamo.vllm --json '{\"a\": [1, 2]}' | cat",
        'python3 -m dynamo.vllm "$(echo "a b" | cat)" `echo c` ${X:-d e}; true',
        "(cd / && python3 -m dynamo.vllm --a b\\ c) 2> /dev/null",
    ],
)
def test_a_real_shell_runs_the_edited_line_with_one_flag_more(line):
    def run(text):
        stub = "python3() { printf '<%s>' \"$@\"; }\n"
        return subprocess.run(["sh", "-c", stub + text], env={"X": "x y", "PATH": "/usr/bin:/bin"}, capture_output=True, text=True, check=True).stdout

    (edited,) = set_tp([line])
    assert run(edited) == run(line) + "<--tensor-parallel-size><4>"
