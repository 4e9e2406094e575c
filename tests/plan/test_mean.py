"""The seed algorithm's replica formulas, on an engine whose capacities are given, and on the shipped profile where they must not blow up."""

from dataclasses import dataclass, field

import pytest

from sla_planner.errors import ProfileError
from sla_planner.model.engine import Engine, ItlLaw, OperatingPoint
from sla_planner.model.sla import Sla
from sla_planner.plan.calibration import Corrections
from sla_planner.plan.decision import Prediction
from sla_planner.plan.mean import MeanSizing, size

MINUTE_S = 60.0


@dataclass
class GivenPrefill:
    throughput: float = 40_000.0
    latency_ms: float = 75.0
    gpus: int = 1
    isl_range: tuple[float, float] = (1, 100_000)

    def ttft_ms(self, isl_tokens: float) -> float:
        return self.latency_ms

    def throughput_per_gpu(self, isl_tokens: float) -> float:
        return self.throughput

    def in_range(self, isl_tokens: float) -> bool:
        return True


@dataclass
class GivenDecode:
    """10 ms at least; remembers what it was asked for."""

    throughput: float = 10_000.0
    lowest_itl_ms: float = 10.0
    gpus: int = 1
    max_kv_tokens: int = 100_000
    context_range: tuple[float, float] = (1, 100_000)
    asked: list[tuple[float, float]] = field(default_factory=list)

    def itl_ms(self, batch: float, context_tokens: float) -> float:
        return self.lowest_itl_ms

    def best_throughput_per_gpu(self, itl_ms: float, context_tokens: float) -> OperatingPoint:
        self.asked.append((itl_ms, context_tokens))
        if itl_ms < self.lowest_itl_ms or context_tokens > self.max_kv_tokens:
            return OperatingPoint(1.0, self.lowest_itl_ms, 0.0, reachable=False)
        return OperatingPoint(self.throughput, itl_ms, 0.5)

    def in_range(self, batch: float, context_tokens: float) -> bool:
        return True


def sized(
    requests: float,
    isl: float = 3000,
    osl: float = 150,
    *,
    prefill: GivenPrefill | None = None,
    decode: GivenDecode | None = None,
    itl_ms: float = 50.0,
    corrections: tuple[float, float] = (1.0, 1.0),
) -> MeanSizing:
    """`requests` in a minute."""
    engine = Engine(prefill or GivenPrefill(), decode or GivenDecode(), ItlLaw(4.0, 0.04, 0.00002))
    return size(Prediction(requests / MINUTE_S, isl, osl), engine, Sla(itl_ms=itl_ms), Corrections(*corrections))


def counts(sizing: MeanSizing) -> tuple[int, int]:
    return sizing.prefill, sizing.decode


def test_given_capacities() -> None:
    assert counts(sized(10)) == (1, 1)
    # 500 * 150 / 60 = 1250 tokens/s on workers of 1000; 500 * 3000 / 60 = 25 000 of 40 000.
    assert counts(sized(500, decode=GivenDecode(1000))) == (1, 2)


def test_gpus_per_worker_divide_the_need() -> None:
    # 4000 * 3000 / 60 = 200 000 tokens/s = 5 GPUs; 4000 * 150 / 60 = 10 000 tokens/s = 10 GPUs of 1000.
    assert counts(sized(4000, decode=GivenDecode(1000))) == (5, 10)
    assert counts(sized(4000, prefill=GivenPrefill(gpus=2), decode=GivenDecode(1000, gpus=4))) == (3, 3)


def test_no_traffic_needs_nothing() -> None:
    assert counts(sized(0)) == (0, 0)


def test_a_whole_worker_is_not_rounded_up() -> None:
    # 800 * 3000 / 60 = 40 000: exactly one.
    assert sized(800).prefill == 1
    assert sized(801).prefill == 2


def test_queueing_never_adds_prefill_and_a_prefix_cache_removes_it() -> None:
    assert [sized(2400, corrections=(p, 1.0)).prefill for p in (0.165, 0.5, 1.0, 2.5, 82.7)] == [1, 2, 3, 3, 3]


@pytest.mark.parametrize(("d_corr", "asked_ms"), [(1.0, 50.0), (2.0, 25.0), (0.5, 100.0), (0.0, 50.0), (-1.0, 50.0)])
def test_decode_correction_divides_the_itl(d_corr: float, asked_ms: float) -> None:
    decode = GivenDecode()
    sized(10, isl=3000, osl=300, decode=decode, corrections=(1.0, d_corr))
    assert decode.asked == [(asked_ms, 3150.0)]


def test_unreachable_itl_is_a_verdict_and_a_best_effort() -> None:
    decode = GivenDecode(1000)
    sizing = sized(500, decode=decode, itl_ms=3)
    assert sizing.decode_infeasible
    assert sizing.verdicts == ("ITL 3 ms cannot be met: 10.00 ms is the lowest at context 3075",)
    assert sizing.decode == 2  # 1250 tokens/s at 1000, not at the 1 token/s of the lowest point
    assert decode.asked[-1] == (15.0, 3075.0)


def test_itl_unreachable_because_of_the_correction_says_so() -> None:
    sizing = sized(500, itl_ms=20, corrections=(1.0, 2.5))
    assert sizing.verdicts == ("ITL 20 ms cannot be met: 25.00 ms is the lowest at context 3075, 2.50 times the profile's",)


def test_a_context_beyond_the_kv_cache_is_not_blamed_on_the_itl() -> None:
    sizing = sized(10, isl=200_000)
    assert sizing.decode_infeasible
    assert sizing.verdicts == ("context 200075 does not fit the KV cache of a decode worker, 100000 tokens",)


def test_throughput_below_zero_is_replaced_by_littles_law() -> None:
    # Prefill 3000 tokens in 75 ms: 40 000 tokens/s. Decode half of 100 000 KV tokens at context 2500: 20 requests at 50 ms: 400 tokens/s.
    sizing = sized(600, isl=2000, osl=1000, prefill=GivenPrefill(-19.3, 50.0), decode=GivenDecode(-19.3))
    assert (sizing.prefill_load, sizing.decode_load) == (pytest.approx(0.5), pytest.approx(25.0))
    assert sizing.verdicts == (
        "the profile interpolates to -19.3 prefill tokens/s/GPU at ISL 2000: TTFT used instead",
        "the profile interpolates to -19.3 decode tokens/s/GPU at context 2500: ITL used instead",
    )


def test_a_profile_without_any_positive_number_is_refused() -> None:
    with pytest.raises(ProfileError, match="prefill at ISL 3000: neither throughput nor latency"):
        sized(10, prefill=GivenPrefill(-1.0, -1.0))
