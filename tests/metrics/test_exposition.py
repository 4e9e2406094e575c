import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from sla_planner.errors import UnreachableError
from sla_planner.metrics.exposition import Sample, parse


class Everything:
    def __contains__(self, _name):
        return True


@pytest.mark.parametrize("file", ["dynamo-frontend-1.6.1.txt", "vllm-0.32.txt", "llamacpp-2026.10.txt"])
def test_real_texts_read_as_the_official_parser_reads_them(file, real_text):
    # Without types: the official parser renames counters that do not end in _total.
    text = "\n".join(line for line in real_text(file).splitlines() if not line.startswith("#")) + "\n"
    official = [
        Sample(sample.name, tuple(sorted(sample.labels.items())), sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    ]
    assert sorted(parse(text, Everything())) == sorted(official)
    assert len(official) >= 15


def test_labels_escapes_timestamps_and_special_values():
    text = (
        "# HELP a help { with } braces\n"
        'a{x="quote \\" brace } comma , slash \\\\n newline \\n",b="",} 1.5e3 1700000000000\n'
        "\n"
        '  a { b = "1" , c = "2" }   NaN\r\n'
        "b +Inf\n"
        "b\t-0.5\n"
        "ignored 7"
    )
    first, second, third, fourth = parse(text, {"a", "b"})
    assert first == Sample("a", (("b", ""), ("x", 'quote " brace } comma , slash \\n newline \n')), 1500.0)
    assert second.labels == (("b", "1"), ("c", "2"))
    assert math.isnan(second.value)
    assert third == Sample("b", (), math.inf)
    assert fourth == Sample("b", (), -0.5)


@pytest.mark.parametrize(
    "text",
    [
        "<html><body>502 Bad Gateway</body></html>",
        "not found",
        '{"error": "no such path"}',
        "up 1\nOops: something went wrong",
        "up one",
        "up",
        "up 1 2 3",
        'up{a="1" 1',
        "up{a=1} 1",
        'up{a="1"b="2"} 1',
        "0up 1",
    ],
)
def test_what_is_not_metrics_text_is_one_clear_line(text):
    with pytest.raises(UnreachableError, match=r"not metrics text: line \d+ is .*; check the URL"):
        parse(text, {"up"})


def test_an_empty_page_is_metrics_text_without_samples():
    assert parse("", {"up"}) == []


@given(st.text() | st.text(alphabet='up{}="\\, \n#1.e+-NaInf\t'))
def test_any_text_is_read_or_refused(text):
    try:
        samples = parse(text, Everything())
    except UnreachableError:
        return
    assert len(samples) <= text.count("\n") + 1


@given(
    st.dictionaries(st.from_regex(r"[a-zA-Z_][a-zA-Z0-9_]{0,8}", fullmatch=True), st.text(max_size=20), max_size=4),
    st.floats(allow_nan=False),
)
def test_what_is_written_is_read(labels, value):
    def escaped(text):
        return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')

    line = "m{" + ",".join(f'{key}="{escaped(text)}"' for key, text in labels.items()) + "} " + repr(value)
    assert parse(line, {"m"}) == [Sample("m", tuple(sorted(labels.items())), value)]
