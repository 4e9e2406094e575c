import io
import json
import logging
from datetime import datetime

import pytest

from sla_planner import logs


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture(autouse=True)
def _root_logger_afterwards():
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield
    root.handlers, root.level = handlers, level


def lines(log_format, stream, *, message="Scaling prefill workers: %d -> %d", args=(1, 2), **given):
    logs.setup(log_format, stream)
    logging.getLogger("sla_planner.trial").info(message, *args, **given)
    return stream.getvalue().splitlines()


def test_a_json_line_carries_time_level_message_and_fields():
    (line,) = lines("json", io.StringIO(), extra={"target": "chat", "decision": {"prefill": 2}})
    record = json.loads(line)
    assert datetime.fromisoformat(record.pop("time")).utcoffset().total_seconds() == 0
    assert record == {"level": "INFO", "message": "Scaling prefill workers: 1 -> 2", "target": "chat", "decision": {"prefill": 2}}


def test_a_json_line_is_valid_json_whatever_the_fields_hold():
    (line,) = lines("json", io.StringIO(), extra={"bad": [float("nan"), float("inf")], "path": logs})
    record = json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert record["bad"] == [None, None]
    assert "sla_planner.logs" in record["path"]


def test_a_json_line_stays_one_line():
    try:
        raise ValueError("first\nsecond")
    except ValueError:
        (line,) = lines("json", io.StringIO(), message="two\nlines", args=(), exc_info=True)
    assert json.loads(line)["message"] == "two\nlines"
    assert "ValueError: first\nsecond" in json.loads(line)["traceback"]


def test_human_text_is_for_terminals():
    (line,) = lines("auto", Terminal())
    assert line.endswith("Z INFO  Scaling prefill workers: 1 -> 2")
    assert lines("human", io.StringIO())[0].endswith("INFO  Scaling prefill workers: 1 -> 2")
    assert json.loads(lines("auto", io.StringIO())[0])["level"] == "INFO"


def test_a_second_call_replaces_the_first():
    first, second = io.StringIO(), io.StringIO()
    logs.setup("json", first)
    lines("json", second)
    assert (first.getvalue(), len(second.getvalue().splitlines())) == ("", 1)
