"""The law by hand-made numbers and by what AI Configurator 0.12.0 gives for Qwen3-32B on H200; the profile by the shipped one."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from sla_planner.errors import ProfileError
from sla_planner.model.engine import ItlLaw, engine_of
from sla_planner.model.fitted import FittedDecode, FittedPrefill
from sla_planner.model.gates import apply_gates
from sla_planner.model.laws import PrefillLaw
from sla_planner.model.profile import ParallelMapping, Profile
from sla_planner.model.tensor_parallel import TensorParallelLaw, over_tensor_parallel
from sla_planner.model.validation import checked
from sla_planner.store.profile_files import read_profile, sample_profile_dir, write_profile_json

SIZES = (1, 2, 4, 8)
SAMPLE = read_profile(sample_profile_dir())
SCALED = over_tensor_parallel(SAMPLE, SIZES)


def selected(size: int) -> Profile:
    mapping = ParallelMapping(tp=size)
    return replace(SCALED, selected_prefill=mapping, selected_decode=mapping)


class TestLaw:
    """w = 0.6, g = 0.25, x = 0.5 (decode) and 0.25 (prefill), four GPUs."""

    law = TensorParallelLaw(0.6, 0.25, 0.5, 0.25)

    def test_decode(self) -> None:
        # c0: 0.6/4 + 0.4 * 1.5 = 0.75; c1: (1 + 0.5 * 3) / 4 = 0.625; c2: 1/4
        scaled = self.law.decode(ItlLaw(10, 0.1, 4e-5), 4)
        assert (scaled.c0_ms, scaled.c1_ms, scaled.c2_ms) == pytest.approx((7.5, 0.0625, 1e-5))

    def test_prefill(self) -> None:
        # (1 + 0.25 * 3) / 4 = 0.4375
        scaled = self.law.prefill(PrefillLaw(20, 0.08, 1.6e-6), 4)
        assert (scaled.overhead_ms, scaled.linear_ms, scaled.quadratic_ms) == pytest.approx((20, 0.035, 7e-7))

    def test_one_gpu_is_as_before(self) -> None:
        assert self.law.decode(ItlLaw(10, 0.1, 4e-5), 1) == ItlLaw(10, 0.1, 4e-5)
        assert self.law.prefill(PrefillLaw(20, 0.08, 1.6e-6), 1) == PrefillLaw(20, 0.08, 1.6e-6)
        assert self.law.max_kv_tokens(ItlLaw(10, 0.1, 4e-5), 70_000, 1) == 70_000

    def test_kv_of_more_gpus_takes_the_place_of_the_weights(self) -> None:
        # The weights are 0.6 * 10 / 4e-5 = 150,000 tokens: 4 * 70,000 + 3 * 150,000
        assert self.law.max_kv_tokens(ItlLaw(10, 0.1, 4e-5), 70_000, 4) == 730_000

    @pytest.mark.parametrize(("gpus", "max_kv_tokens"), [(2, 751_550), (4, 1_755_323), (8, 3_760_597)])
    def test_kv_of_qwen3_32b(self, gpus: int, max_kv_tokens: int) -> None:
        law = TensorParallelLaw(weights_share=0.75)
        assert law.max_kv_tokens(ItlLaw(18.2, 0.058, 5.46e-5), 249_864, gpus) == pytest.approx(max_kv_tokens, rel=0.004)

    def test_without_a_cost_of_kv_the_weights_are_not_known(self) -> None:
        assert TensorParallelLaw().max_kv_tokens(ItlLaw(10, 0.1, 0), 1000, 2) == 2000


class TestProfile:
    @pytest.mark.parametrize("size", SIZES)
    def test_a_fit_gives_the_law_back(self, size: int) -> None:
        one_prefill, one_decode = FittedPrefill(SAMPLE.picked_prefill, 1), FittedDecode(SAMPLE.picked_decode, 1)
        decode, prefill = TensorParallelLaw().decode(one_decode.law, size), TensorParallelLaw().prefill(one_prefill.law, size)
        engine = engine_of(selected(size))
        fitted = engine.itl_law
        assert (fitted.c0_ms, fitted.c1_ms, fitted.c2_ms) == pytest.approx((decode.c0_ms, decode.c1_ms, decode.c2_ms), rel=1e-3)
        for isl_tokens in (50, 100, 700, 3000, 3333, 9000, 16372, 30000):
            assert engine.prefill.ttft_ms(isl_tokens) == pytest.approx(prefill.ttft_ms(isl_tokens), rel=1e-3)
        assert (engine.prefill.gpus, engine.decode.gpus) == (size, size)

    def test_latencies_and_throughputs_fall_with_the_size(self) -> None:
        engines = [engine_of(selected(size)) for size in SIZES]
        for fewer, more in pairwise(engines):
            assert more.prefill.ttft_ms(3000) < fewer.prefill.ttft_ms(3000)
            assert more.prefill.throughput_per_gpu(3000) < fewer.prefill.throughput_per_gpu(3000)
            for batch in (1, 32, 200):
                assert more.decode.itl_ms(batch, 3250) < fewer.decode.itl_ms(batch, 3250)
                fewer_per_gpu = batch / fewer.decode.itl_ms(batch, 3250) / fewer.decode.gpus
                assert batch / more.decode.itl_ms(batch, 3250) / more.decode.gpus < fewer_per_gpu
            assert (
                more.decode.best_throughput_per_gpu(30, 3250).throughput_per_gpu < fewer.decode.best_throughput_per_gpu(30, 3250).throughput_per_gpu
            )
            assert more.decode.max_kv_tokens > more.decode.gpus / fewer.decode.gpus * fewer.decode.max_kv_tokens

    def test_a_tight_itl_wants_more_gpus(self) -> None:
        one, two = (engine_of(selected(size)).decode for size in (1, 2))
        assert not one.best_throughput_per_gpu(4.0, 3250).reachable
        assert two.best_throughput_per_gpu(4.0, 3250).reachable

    def test_it_is_a_profile_that_no_gate_minds(self, tmp_path: Path) -> None:
        assert checked(SCALED) == SCALED
        assert apply_gates(SCALED) == SCALED
        write_profile_json(SCALED, tmp_path / "profile.json")
        assert read_profile(tmp_path) == SCALED

    def test_mappings_grid_and_provenance(self) -> None:
        scaled = over_tensor_parallel(SAMPLE, (4, 2, 4))
        assert [each.mapping.label for each in scaled.prefill] == [each.mapping.label for each in scaled.decode] == ["TP2", "TP4"]
        assert scaled.selected_prefill == scaled.selected_decode == ParallelMapping(tp=2)
        lengths = [point.isl_tokens for point in scaled.picked_prefill.points]
        assert (len(lengths), lengths[0], lengths[-1]) == (24, 100, 16372)
        contexts = sorted({point.context_tokens for point in scaled.picked_decode.points})
        assert (len(contexts), contexts[0], contexts[-1]) == (6, 350, 13585)
        batches = [scaled.picked_decode.batch(point) for point in scaled.picked_decode.points if point.context_tokens == 13585]
        assert batches[0] == pytest.approx(1)
        assert batches[-1] == pytest.approx(scaled.picked_decode.max_kv_tokens // 13585)
        assert scaled.provenance.source == "npz, over tensor parallelism by law"

    @pytest.mark.parametrize("sizes", [(), (0, 1)])
    def test_sizes_that_cannot_be(self, sizes: tuple[int, ...]) -> None:
        with pytest.raises(ProfileError, match="no tensor-parallel sizes"):
            over_tensor_parallel(SAMPLE, sizes)

    def test_more_than_one_gpu_to_start_from(self) -> None:
        with pytest.raises(ProfileError, match="TP4 is selected, the law starts from one GPU; select TP1"):
            over_tensor_parallel(selected(4), SIZES)
