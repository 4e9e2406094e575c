"""Profiles from disk and back, in all three layouts, and files that are not what they seem."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sla_planner.errors import ProfileError, UsageError
from sla_planner.model.engine import engine_of
from sla_planner.model.profile import (
    BatchedPrefillPoint,
    DecodeMeasurement,
    DecodePoint,
    Flag,
    ParallelMapping,
    PrefillMeasurement,
    PrefillPoint,
    Profile,
    Provenance,
)
from sla_planner.store.profile_files import (
    DECODE_NPZ,
    DECODE_TWIN,
    MOST_BYTES,
    PREFILL_NPZ,
    PREFILL_TWIN,
    PROFILE_JSON,
    read_profile,
    sample_profile_dir,
    write_json_twins,
    write_npz_tree,
    write_profile_json,
)

TP1, TP4 = ParallelMapping(tp=1), ParallelMapping(tp=4, ep=2)


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    """A copy of the shipped results tree that a test may spoil."""
    shutil.copytree(sample_profile_dir(), tmp_path / "results")
    return tmp_path / "results"


@pytest.fixture(scope="module")
def rich() -> Profile:
    """Two mappings, provenance, reported points of every kind with a note, batched prefill."""

    def prefill(mapping: ParallelMapping, gpus: int) -> PrefillMeasurement:
        rows = [(500, 20 / gpus), (1000, 30 / gpus), (2000, 50 / gpus)]
        points = [PrefillPoint(isl, ttft, isl / ttft * 1000 / gpus) for isl, ttft in rows]
        batched = (
            BatchedPrefillPoint(1000, 2, 50 / gpus, 40000.0),
            BatchedPrefillPoint(1000, 4, 100 / gpus, 40000.0, (Flag.REPORTED,), "one answer was cut off"),
        )
        return PrefillMeasurement(mapping, (*points[:2], replace(points[2], flags=(Flag.REPORTED,), note="the client was 7 ms late")), batched)

    def decode(mapping: ParallelMapping, gpus: int) -> DecodeMeasurement:
        rows = [(1, 1000, 5.0), (10, 1000, 7.0), (40, 1000, 13.0), (1, 4000, 5.5), (10, 4000, 10.0)]
        points = [DecodePoint(n * context / 100000, context, itl, n / itl * 1000 / gpus) for n, context, itl in rows]
        return DecodeMeasurement(mapping, (*points[:4], replace(points[4], flags=(Flag.REPORTED,), note="3 “words” für 10")), 100000)

    provenance = Provenance("measured", "llama", "vllm 0.9", "H200", "image@sha256:1", "2025-06-01T12:00:00Z")
    return Profile((prefill(TP1, 1), prefill(TP4, 4)), (decode(TP1, 1), decode(TP4, 4)), TP4, TP1, provenance)


class TestShippedSample:
    def test_what_it_holds(self) -> None:
        profile = read_profile(sample_profile_dir())
        assert (profile.selected_prefill, profile.selected_decode) == (TP1, TP1)
        assert profile.picked_decode.max_kv_tokens == 945029
        first, last = profile.picked_prefill.points[0], profile.picked_prefill.points[-1]
        assert (first.isl_tokens, first.ttft_ms, first.throughput_per_gpu) == pytest.approx((100, 19.525209, 5121.584102))
        assert (last.isl_tokens, last.ttft_ms) == pytest.approx((16372, 375.482618))
        assert sorted({point.context_tokens for point in profile.picked_decode.points}) == [350, 2997, 5644, 8291, 10938, 13585]


class TestRoundTrips:
    def test_profile_json_keeps_everything(self, tmp_path: Path, rich: Profile) -> None:
        write_profile_json(rich, tmp_path / "new" / PROFILE_JSON)
        assert read_profile(tmp_path / "new" / PROFILE_JSON) == rich
        assert read_profile(tmp_path / "new") == rich

    def test_a_file_from_before_notes_and_batched_points(self, tmp_path: Path, rich: Profile) -> None:
        write_profile_json(rich, tmp_path / PROFILE_JSON)
        document = json.loads((tmp_path / PROFILE_JSON).read_text())
        for measurement in (*document["prefill"], *document["decode"]):
            measurement.pop("batched", None)
            for point in measurement["points"]:
                del point["note"]
        (tmp_path / PROFILE_JSON).write_text(json.dumps(document))
        old = read_profile(tmp_path)
        assert old.prefill[0].batched == ()
        assert old.prefill[0].points == tuple(replace(point, note="") for point in rich.prefill[0].points)
        assert old.decode == tuple(replace(m, points=tuple(replace(point, note="") for point in m.points)) for m in rich.decode)

    def test_npz_tree_is_byte_for_byte_what_dynamo_wrote(self, tmp_path: Path) -> None:
        write_npz_tree(read_profile(sample_profile_dir()), tmp_path)
        for name in (PREFILL_NPZ, DECODE_NPZ):
            with np.load(tmp_path / name) as ours, np.load(sample_profile_dir() / name) as theirs:
                assert sorted(ours) == sorted(theirs)
                for key in theirs:
                    assert ours[key].dtype == theirs[key].dtype
                    assert ours[key].tobytes() == theirs[key].tobytes()
        assert read_profile(tmp_path) == read_profile(sample_profile_dir())

    def test_json_twins(self, tmp_path: Path) -> None:
        original = read_profile(sample_profile_dir())
        write_json_twins(original, tmp_path)
        prefill, decode = (json.loads((tmp_path / name).read_text()) for name in (PREFILL_TWIN, DECODE_TWIN))
        assert prefill["prefill_isl"][:3] == [100, 1117, 2134]
        assert decode["max_kv_tokens"] == 945029
        again = read_profile(tmp_path)
        assert again == replace(original, provenance=Provenance(source="json"))

    def test_the_unnamed_layouts_hold_the_selected_mappings(self, tmp_path: Path, rich: Profile) -> None:
        write_npz_tree(rich, tmp_path)
        again = read_profile(tmp_path)
        assert again.selected_prefill == ParallelMapping(tp=4)  # the GPUs follow from the numbers, what they do not
        assert again.selected_decode == TP1
        assert [point.ttft_ms for point in again.picked_prefill.points] == [5.0, 7.5, 12.5]
        assert not any(point.flags for point in again.picked_prefill.points)

    def test_lengths_that_are_not_whole_stay_exact(self, tmp_path: Path, rich: Profile) -> None:
        points = tuple(replace(point, isl_tokens=point.isl_tokens + 0.5) for point in rich.picked_prefill.points)
        measured = replace(rich, prefill=(replace(rich.picked_prefill, points=points),))
        write_npz_tree(measured, tmp_path)
        assert [point.isl_tokens for point in read_profile(tmp_path).picked_prefill.points] == [500.5, 1000.5, 2000.5]

    def test_a_profile_that_could_not_be_read_back_is_not_written(self, tmp_path: Path, rich: Profile) -> None:
        broken = replace(rich, selected_decode=ParallelMapping(tp=8))
        for write in (write_profile_json, write_npz_tree, write_json_twins):
            with pytest.raises(ProfileError, match="TP8 is selected but not measured"):
                write(broken, tmp_path / PROFILE_JSON)
        assert list(tmp_path.iterdir()) == []

    def test_a_path_that_cannot_be_written(self, tmp_path: Path, rich: Profile) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(UsageError, match=f"cannot make the directory {tmp_path}/file/sub"):
            write_profile_json(rich, tmp_path / "file" / "sub" / PROFILE_JSON)


class TestFinding:
    def test_ours_before_npz_before_json(self, sample: Path, rich: Profile) -> None:
        write_json_twins(rich, sample)
        assert read_profile(sample).provenance.source == "npz"
        write_profile_json(rich, sample / PROFILE_JSON)
        assert read_profile(sample) == rich

    def test_half_a_tree_falls_back_to_whole_twins(self, sample: Path, rich: Profile) -> None:
        write_json_twins(rich, sample)
        (sample / DECODE_NPZ).unlink()
        assert read_profile(sample).provenance.source == "json"

    def test_a_mounted_configmap_is_links(self, tmp_path: Path) -> None:
        write_json_twins(read_profile(sample_profile_dir()), tmp_path / "..2025_06_01")
        (tmp_path / "..data").symlink_to("..2025_06_01")
        for name in (PREFILL_TWIN, DECODE_TWIN):
            (tmp_path / name).symlink_to(f"..data/{name}")
        assert read_profile(tmp_path).picked_decode.max_kv_tokens == 945029

    def test_what_is_missing_is_named(self, sample: Path) -> None:
        (sample / DECODE_NPZ).unlink()
        with pytest.raises(ProfileError) as caught:
            read_profile(sample)
        assert str(caught.value) == (
            f"{sample}: no complete profile here, not found: profile.json, {DECODE_NPZ}, {PREFILL_TWIN}, {DECODE_TWIN}; "
            "name the folder a sweep wrote to"
        )

    def test_nothing_there(self, tmp_path: Path) -> None:
        with pytest.raises(ProfileError, match=r"absent: no such file or directory; name a results directory or a profile\.json"):
            read_profile(tmp_path / "absent")

    def test_a_pipe_is_not_waited_for(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / PROFILE_JSON)
        with pytest.raises(ProfileError, match="no such file or directory"):
            read_profile(tmp_path / PROFILE_JSON)


def npz(path: Path, **arrays: object) -> None:
    np.savez(path, **arrays)  # type: ignore[arg-type]


class TestBadNpz:
    @pytest.mark.parametrize("keep", [0, 1, 100, -1, -30])
    def test_truncated(self, sample: Path, keep: int) -> None:
        file = sample / PREFILL_NPZ
        file.write_bytes(file.read_bytes()[:keep])
        with pytest.raises(ProfileError, match=r"not a readable \.npz file") as caught:
            read_profile(sample)
        assert caught.value.file == str(file)

    def test_not_a_zip(self, sample: Path) -> None:
        (sample / DECODE_NPZ).write_bytes(b"<html>404</html>")
        with pytest.raises(ProfileError, match=r"selected_decode_interpolation/raw_data.npz: not a readable \.npz file"):
            read_profile(sample)

    def test_a_zip_bomb_is_not_unpacked(self, sample: Path) -> None:
        with zipfile.ZipFile(sample / DECODE_NPZ, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("x_kv_usage.npy", bytes(64 << 20))
        assert (sample / DECODE_NPZ).stat().st_size < 100_000
        with pytest.raises(ProfileError, match=f"unpacks to {64 << 20} bytes, {MOST_BYTES} at most are read"):
            read_profile(sample)

    @pytest.mark.parametrize(
        "header",
        [
            "{'descr': '<f8', 'fortran_order': False, 'shape': (10000000000000,), }",
            "{'descr': '<f8', 'fortran_order': False, 'shape': (-3,), }",
            "{'descr': '<f8', 'fortran_order': False, 'shape': (3,), ",
            "  not\n python\n",
            "'''",
            "(" * 5000,
            "-" * 11000 + "1",
        ],
    )
    def test_a_header_that_lies(self, sample: Path, header: str) -> None:
        text = header.ljust(117).encode() + b"\n"
        with zipfile.ZipFile(sample / PREFILL_NPZ, "w") as archive:
            archive.writestr("prefill_isl.npy", b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(24))
        with pytest.raises(ProfileError, match=r"not a readable \.npz file") as caught:
            read_profile(sample)
        assert "\n" not in str(caught.value)

    def test_nothing_is_unpickled(self, sample: Path) -> None:
        npz(sample / PREFILL_NPZ, prefill_isl=np.array([Path("x")], dtype=object))
        with pytest.raises(ProfileError, match="Object arrays cannot be loaded"):
            read_profile(sample)

    def test_too_large(self, sample: Path) -> None:
        with (sample / PREFILL_NPZ).open("wb") as file:
            file.truncate(MOST_BYTES + 1)
        with pytest.raises(ProfileError, match=f"larger than the {MOST_BYTES} bytes"):
            read_profile(sample)

    def test_wrong_values_name_the_file_and_the_key(self, sample: Path) -> None:
        npz(sample / PREFILL_NPZ, prefill_isl=[100, 200], prefill_ttft=[20.0, np.nan], prefill_thpt_per_gpu=[5000.0, 9000.0])
        with pytest.raises(ProfileError, match=f"^{sample / PREFILL_NPZ}: prefill_ttft: nan at position 1 is no measurement"):
            read_profile(sample)
        shutil.copy(sample_profile_dir() / PREFILL_NPZ, sample / PREFILL_NPZ)
        npz(sample / DECODE_NPZ, x_kv_usage=[0.1])
        with pytest.raises(ProfileError, match=f"^{sample / DECODE_NPZ}: y_context_length: missing; found x_kv_usage"):
            read_profile(sample)


class TestBadJson:
    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "not readable as JSON"),
            ("{", "not readable as JSON"),
            ("\ud800", "not readable as JSON"),
            ("[" * 100_000, "not readable as JSON"),
            ("[]", "the top level is not an object"),
            ("{}", "format: 'None' is not a profile format this version reads; it reads 1"),
            ('{"format": 2}', "format: '2' is not a profile format"),
            ('{"format": 1}', "prefill: Field required"),
        ],
    )
    def test_not_a_profile(self, tmp_path: Path, text: str, message: str) -> None:
        (tmp_path / PROFILE_JSON).write_bytes(text.encode(errors="surrogatepass"))
        with pytest.raises(ProfileError, match=message) as caught:
            read_profile(tmp_path)
        assert caught.value.file == str(tmp_path / PROFILE_JSON)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        ("old", "new", "message"),
        [
            ('"reported"', '"suspicious"', "prefill.0.points.2.flags.0: Input should be 'little'.*found 'suspicious'"),
            ('"ttft_ms": 20.0', '"ttft_ms": "20"', "prefill.0.points.0.ttft_ms: Input should be a valid number, found '20'"),
            ('"ttft_ms": 20.0', '"ttft_ms": NaN', "prefill TP1 ttft_ms: nan at position 0"),
            ('"ttft_ms": 20.0', '"ttft_ms": -1', "prefill TP1 ttft_ms: -1 at position 0"),
            ('"concurrency": 2', '"concurrency": 2.5', "prefill.0.batched.0.concurrency: Input should be a valid integer, found '2.5'"),
            (
                '"concurrency": 2',
                '"concurrency": 4',
                "prefill TP1 batched isl_tokens: two different .* 1000 tokens, 4 at once: 50 and 100",
            ),
            ('"note": "one answer', '"note": 1, "x": "', "prefill.0.batched.1.note: Input should be a valid string, found '1'"),
            ('"tp": 4', '"tp": 0', "prefill: TP0-EP2 is no parallel mapping"),
            ('"max_kv_tokens": 100000', '"max_kv_tokens": -5', "decode TP1 max_kv_tokens: -5 is no KV capacity"),
            ('"max_kv_tokens": 100000', '"max_kv_tokens": 1e400', "decode.0.max_kv_tokens: Input should be a valid integer, found 'inf'"),
            ('"max_kv_tokens": 100000', '"max_kv_tokens": 1' + "0" * 400, "decode TP1 max_kv_tokens: 1000.* is no KV capacity"),
        ],
    )
    def test_a_wrong_value_is_named(self, tmp_path: Path, rich: Profile, old: str, new: str, message: str) -> None:
        write_profile_json(rich, tmp_path / PROFILE_JSON)
        text = (tmp_path / PROFILE_JSON).read_text()
        assert old in text
        (tmp_path / PROFILE_JSON).write_text(text.replace(old, new, 1))
        with pytest.raises(ProfileError, match=f"^{tmp_path / PROFILE_JSON}: {message}"):
            read_profile(tmp_path)

    def test_a_twin_names_its_file(self, tmp_path: Path, rich: Profile) -> None:
        write_json_twins(rich, tmp_path)
        (tmp_path / DECODE_TWIN).write_text("{}")
        with pytest.raises(ProfileError, match=f"^{tmp_path / DECODE_TWIN}: x_kv_usage: missing"):
            read_profile(tmp_path)


@pytest.fixture(scope="module")
def one_of_each(tmp_path_factory: pytest.TempPathFactory, rich: Profile) -> list[Path]:
    """A directory per layout."""
    root = tmp_path_factory.mktemp("layouts")
    write_profile_json(rich, root / "ours" / PROFILE_JSON)
    write_npz_tree(rich, root / "npz")
    write_json_twins(rich, root / "twins")
    return sorted(root.iterdir())


@pytest.mark.filterwarnings("ignore:Reading `.npy` or `.npz` file required additional header parsing")
@given(st.integers(0, 2), st.integers(0, 1), st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=4), st.floats(0, 1))
@settings(deadline=None, max_examples=100)
def test_any_damage_is_refused_or_harmless(one_of_each: list[Path], layout: int, which: int, edits: list[tuple[float, int]], end: float) -> None:
    """A few bytes changed, the end cut off: a ProfileError, or a profile that gives an engine or a ProfileError."""
    files = sorted(path for path in one_of_each[layout].rglob("*") if path.is_file())
    file = files[which % len(files)]
    whole = file.read_bytes()
    damaged = bytearray(whole)
    for position, value in edits:
        damaged[min(int(position * len(whole)), len(whole) - 1)] = value
    file.write_bytes(damaged[: max(int(end * 2 * len(whole)), 0)])
    try:
        engine = engine_of(read_profile(one_of_each[layout]))
    except ProfileError as error:
        assert "\n" not in str(error)  # noqa: PT017 - either way is right
    else:
        assert engine.prefill.ttft_ms(1000) > 0
    finally:
        file.write_bytes(whole)


def test_a_folder_whose_sweep_is_not_finished_says_so(tmp_path):
    (tmp_path / "points").mkdir()
    with pytest.raises(ProfileError, match="its sweep is not finished: start it again"):
        read_profile(tmp_path)


def test_sample_is_the_shipped_profile_unless_a_folder_is_called_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert read_profile("sample") == read_profile(sample_profile_dir())
    (tmp_path / "sample").mkdir()
    with pytest.raises(ProfileError, match="sample"):
        read_profile("sample")
