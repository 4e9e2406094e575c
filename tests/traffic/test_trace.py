import gzip
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sla_planner.errors import TraceError
from sla_planner.traffic.trace import Trace, read_trace, sample_trace_path

TRACE = Trace([0.0, 1.0, 1.0, 4.5], [10, 20, 30, 40], [1, 2, 3, 4])


def columns(trace):
    return trace.arrival_s.tolist(), trace.isl_tokens.tolist(), trace.osl_tokens.tolist()


def written(folder, name, text):
    path = folder / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "A.CSV"])
def test_a_csv_is_read_by_column_name(tmp_path, name):
    path = written(tmp_path, name, "\ufeffosl,arrival_s,isl,cached_isl\r\n44,0.000,374,0\r\n\r\n109,4.315,396,374\r\n")
    assert columns(read_trace(path)) == ([0.0, 4.315], [374, 396], [44, 109])


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
@pytest.mark.parametrize(
    "lines",
    [
        ["isl,arrival_s, osl,who", "7,0,5,a", "9,1e1,6,b,c"],
        ["arrival_s,isl,osl", "", "0, 1 ,1", "", "1_0,2,+2", ""],
        ["arrival_s,isl,osl", '"0","1","1"', "2.5,10,3"],
        ['"arrival_s",isl,osl', "0,1,1"],
        ["arrival_s,isl,osl,isl", "0,1,1,900"],
    ],
)
def test_plain_numbers_and_the_careful_way_read_the_same(tmp_path, monkeypatch, lines, line_end):
    path = tmp_path / "t.csv"
    path.write_bytes(line_end.join(lines).encode())
    both = []
    for _ in range(2):
        both.append(read_trace(path))
        monkeypatch.setattr("sla_planner.traffic.trace._plain_csv", lambda _text: None)
    assert all(np.array_equal(getattr(both[0], name), getattr(both[1], name)) for name in ("arrival_s", "isl_tokens", "osl_tokens"))


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_a_mooncake_trace_counts_milliseconds(tmp_path, name):
    lines = [
        {"timestamp": 0, "input_length": 6758, "output_length": 500, "hash_ids": [0, 1]},
        {"timestamp": 3052, "input_length": 7, "output_length": 1},
    ]
    path = written(tmp_path, name, "\n".join(map(json.dumps, lines)) + "\n\n")
    assert columns(read_trace(path)) == ([0.0, 3.052], [6758, 7], [500, 1])


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("arrival_s,isl\n0,1\n", ["line 1", "no column osl", "'arrival_s,isl'", "start with arrival_s,isl,osl"]),
        ("", ["line 1", "no column arrival_s, isl, osl"]),
        ("arrival_s,isl,osl\n", ["holds no request"]),
        ("arrival_s,isl,osl\n0,1,1\n2,1,1\n1.5,1,1\n", ["line 4", "earlier than the request before: 1.5", "sort"]),
        ("arrival_s,isl,osl\n-1,1,1\n", ["line 2", "arrival_s is negative: -1"]),
        ("arrival_s,isl,osl\n1700231780,1,1\n", ["line 2", "more than a year: 1700231780", "not from 1970"]),
        ("arrival_s,isl,osl\nnan,1,1\n", ["line 2", "arrival_s is not finite: nan"]),
        ("arrival_s,isl,osl\n0,1,1\n0,0,1\n", ["line 3", "isl is below one token: 0"]),
        ("arrival_s,isl,osl\n0,1,-5\n", ["line 2", "osl is below one token: -5"]),
        ("arrival_s,isl,osl\n0,inf,5\n", ["line 2", "isl is not finite: inf"]),
        ("arrival_s,isl,osl\n0,1e9,5\n", ["line 2", "beyond any context window: 1000000000"]),
        ("arrival_s,isl,osl\n0,2.5,5\n", ["line 2", "isl is not a whole number of tokens: 2.5"]),
        ("arrival_s,isl,osl\n\n0,many,5\n", ["line 3", "isl is not a number: 'many'"]),
        ("arrival_s,isl,osl\n0,5\n", ["line 2", "2 of 3 columns"]),
        ('arrival_s,isl,osl\n0,"5,5\n', ["line 2", "not CSV"]),
    ],
)
def test_a_bad_csv_is_told_with_line_value_and_remedy(tmp_path, content, told):
    path = written(tmp_path, "bad.csv", content)
    with pytest.raises(TraceError) as caught:
        read_trace(path)
    assert str(path) in str(caught.value)
    assert caught.value.hint
    for part in told:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ('{"timestamp": 0, "input_length": 1}\n', ["line 1", "no key output_length"]),
        ('{"timestamp": 0, "input_length": 1, "output_length": 1}\n{"timest', ["line 2", "not JSON", '{"timest']),
        ("[1, 2]\n", ["line 1", "not a JSON object"]),
        ("[" * 100_000, ["line 1", "not JSON"]),
        ('{"timestamp": true, "input_length": 1, "output_length": 1}', ["timestamp is not a number: True"]),
        ('{"timestamp": null, "input_length": 1, "output_length": 1}', ["timestamp is not a number: None"]),
        ('{"timestamp": 0, "input_length": 1' + "0" * 400 + ', "output_length": 1}', ["input_length is not a number"]),
        ('{"timestamp": 0, "input_length": 1, "output_length": 0}', ["line 1", "osl is below one token: 0"]),
    ],
)
def test_a_bad_jsonl_is_told_with_line_and_value(tmp_path, content, told):
    with pytest.raises(TraceError) as caught:
        read_trace(written(tmp_path, "bad.jsonl", content))
    for part in told:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.csv.gz", b"arrival_s,isl,osl\n0,1,1\n", "not a whole gzip file"),
        ("a.csv.gz", gzip.compress(b"arrival_s,isl,osl\n0,1,1\n", mtime=0)[:-9], "not a whole gzip file"),
        ("a.csv", gzip.compress(b"arrival_s,isl,osl\n0,1,1\n", mtime=0), "line 1: byte 0x8b is not UTF-8"),
        ("a.csv", b"arrival_s,isl,osl\n0,1,1\n0,\xff,1\n", "line 3: byte 0xff is not UTF-8"),
        ("a.parquet", b"PAR1", "unknown trace format"),
    ],
)
def test_a_file_that_is_no_trace_is_told(tmp_path, name, content, told):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(TraceError, match=told):
        read_trace(path)


def test_a_missing_file_and_a_folder_are_told(tmp_path):
    with pytest.raises(TraceError, match="No such file"):
        read_trace(tmp_path / "none.csv")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(TraceError, match="directory"):
        read_trace(tmp_path / "folder.csv")


def check_read(path):
    """Either a valid trace, or one line that names the file."""
    error = ""
    try:
        trace = read_trace(path)
    except TraceError as caught:
        error = str(caught)
        trace = TRACE
    assert error == "" or ("\n" not in error and str(path) in error)
    assert (np.diff(trace.arrival_s) >= 0).all()
    assert min(trace.isl_tokens.min(), trace.osl_tokens.min()) >= 1


@settings(deadline=None)
@given(content=st.binary(max_size=200), suffix=st.sampled_from([".csv", ".csv.gz", ".jsonl", ".jsonl.gz"]), head=st.booleans(), zipped=st.booleans())
def test_any_bytes_give_a_trace_or_one_line(tmp_path_factory, content, suffix, head, zipped):
    path = tmp_path_factory.getbasetemp() / f"fuzz{suffix}"
    content = b"arrival_s,isl,osl\n0,1,1\n" + content if head else content
    path.write_bytes(gzip.compress(content, 1, mtime=0) if zipped else content)
    check_read(path)


numbers = st.one_of(st.integers(), st.floats(), st.text("07-.e\u0661 ", max_size=5), st.none(), st.booleans(), st.lists(st.integers(), max_size=2))


@settings(deadline=None)
@given(st.lists(st.fixed_dictionaries({}, optional={"timestamp": numbers, "input_length": numbers, "output_length": numbers}), max_size=3))
def test_any_json_objects_give_a_valid_trace_or_one_line(tmp_path_factory, requests):
    path = tmp_path_factory.getbasetemp() / "fuzz_objects.jsonl"
    path.write_text("\n".join(map(json.dumps, requests)))
    check_read(path)


def test_a_trace_cannot_be_made_wrong_or_changed():
    for arrival, isl, osl in (([], [], []), ([0, 1], [1], [1, 1]), ([1, 0], [1, 1], [1, 1]), ([0], [0], [1])):
        with pytest.raises(TraceError):
            Trace(arrival, isl, osl)
    source = np.array([0.0, 1.0])
    trace = Trace(source, [1, 1], [1, 1])
    source[0] = 0.5
    assert trace.arrival_s[0] == 0.0
    with pytest.raises(ValueError, match="read-only"):
        trace.arrival_s[0] = 7


def test_window_takes_start_and_leaves_end():
    assert columns(TRACE.window(1.0, 4.5)) == ([0.0, 0.0], [20, 30], [2, 3])
    assert columns(TRACE.window(0.5)) == ([0.5, 0.5, 4.0], [20, 30, 40], [2, 3, 4])


@pytest.mark.parametrize(("start_s", "end_s"), [(5.0, 9.0), (1.5, 4.0), (3.0, 1.0), (-1.0, 9.0), (float("nan"), 9.0)])
def test_an_empty_window_is_told(start_s, end_s):
    with pytest.raises(TraceError, match=r"the trace holds 4 requests from 0 s to 4\.5 s"):
        TRACE.window(start_s, end_s)


def test_speed_up_compresses_time_only():
    assert columns(TRACE.sped_up(2.0)) == ([0.0, 0.5, 0.5, 2.25], [10, 20, 30, 40], [1, 2, 3, 4])
    for factor in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(TraceError, match="cannot speed"):
            TRACE.sped_up(factor)


def test_a_whole_factor_copies_every_request_and_jitters_each_copy():
    tripled = TRACE.scaled(3.0, seed=1)
    arrivals = dict(zip(TRACE.isl_tokens.tolist(), TRACE.arrival_s.tolist(), strict=True))
    assert sorted(tripled.isl_tokens.tolist()) == [10] * 3 + [20] * 3 + [30] * 3 + [40] * 3
    assert (tripled.osl_tokens * 10 == tripled.isl_tokens).all()
    jitter_s = [at - arrivals[isl] for at, isl in zip(tripled.arrival_s.tolist(), tripled.isl_tokens.tolist(), strict=True)]
    assert min(jitter_s) >= 0
    assert max(jitter_s) <= 15
    assert len(set(jitter_s)) == 12


def test_scaling_is_seeded_and_one_changes_nothing():
    assert columns(TRACE.scaled(2.5, seed=7)) == columns(TRACE.scaled(2.5, seed=7))
    assert columns(TRACE.scaled(2.5, seed=7)) != columns(TRACE.scaled(2.5, seed=8))
    assert columns(TRACE.scaled(1.0, seed=7)) == columns(TRACE)


@pytest.mark.parametrize(("factor", "low", "high"), [(2.25, 22_000, 23_000), (0.25, 2_250, 2_750), (1.5, 14_700, 15_300)])
def test_a_broken_factor_gives_its_share(factor, low, high):
    steady = Trace(np.arange(10_000) / 10, np.full(10_000, 5), np.full(10_000, 6))
    assert low < len(steady.scaled(factor, seed=3)) < high


def test_thinning_keeps_requests_as_they_are():
    thinned = TRACE.scaled(0.5, seed=4)
    assert 0 < len(thinned) < 4
    assert set(zip(*columns(thinned), strict=True)) < set(zip(*columns(TRACE), strict=True))


@pytest.mark.parametrize("factor", [0.0, -2.0, float("nan"), float("inf"), 1e9])
def test_a_senseless_factor_is_told(factor):
    with pytest.raises(TraceError, match="cannot scale 4 requests"):
        TRACE.scaled(factor, seed=1)


def test_thinning_to_nothing_is_told():
    with pytest.raises(TraceError, match="leaves none"):
        TRACE.scaled(1e-9, seed=1)


def test_a_shape_keeps_the_share_it_says_where_it_says_it():
    even = Trace(np.arange(0.0, 3000.0), np.full(3000, 10), np.full(3000, 10))
    kept = even.shaped([(0, 0.0), (1000, 0.0), (1001, 1.0), (2000, 1.0), (2001, 0.5)], seed=3)
    by_part = np.histogram(kept.arrival_s, [0, 1001, 2000, 3000])[0]
    assert by_part[:2].tolist() == [0, 999]
    assert 430 < by_part[2] < 570
    assert set(kept.arrival_s) < set(even.arrival_s)
    with pytest.raises(TraceError, match="leaves none"):
        even.shaped([(0, 0.0)], seed=3)


def test_the_shipped_excerpt_holds_a_rush_and_a_lull():
    trace = read_trace(sample_trace_path())
    assert (len(trace), trace.isl_tokens.sum(), trace.osl_tokens.sum()) == (15_188, 17_437_734, 3_032_723)
    prompt_tokens = np.bincount((trace.arrival_s // 60).astype(int), trace.isl_tokens)
    assert len(prompt_tokens) == 44
    assert prompt_tokens[17] == 732_409  # the rush
    assert prompt_tokens[42] == 224_400  # the lull
    assert sample_trace_path().stat().st_size < 100_000
