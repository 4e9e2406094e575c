"""Batches made by hand."""

from __future__ import annotations

import pytest

from sla_planner.model.batching import BatchingLaw
from sla_planner.model.engine import engine_of
from sla_planner.store.profile_files import read_profile, sample_profile_dir


@pytest.fixture(scope="module")
def law() -> BatchingLaw:
    return BatchingLaw(engine_of(read_profile(sample_profile_dir())), max_batched_tokens=8192, max_sequences=4)


@pytest.mark.parametrize(
    ("waiting", "taken"),
    [
        ([], 0),
        ([5000], 1),
        ([9000], 1),
        ([9000, 10], 1),
        ([10, 9000], 1),
        ([4096, 4096], 2),
        ([4096, 4096, 1], 2),
        ([4096, 4097], 1),
        ([1] * 10, 10),
        ([8000, 100, 50, 50, 1], 3),
    ],
)
def test_whole_prompts_up_to_the_token_limit(law: BatchingLaw, waiting: list[int], taken: int) -> None:
    assert law.take(waiting) == taken


def test_a_batch_takes_as_long_as_one_prompt_of_its_tokens(law: BatchingLaw) -> None:
    """Measured: TTFT 63.214755 ms at ISL 3151."""
    assert law.prefill_ms(3151) == pytest.approx(63.214755)


def test_step_time(law: BatchingLaw) -> None:
    """The published law at batch 100 of context 3000: 4.392 + 3.872 + 8.76 = 17.02 ms."""
    assert law.step_ms(100, 300_000) == pytest.approx(17.02, rel=0.005)


@pytest.mark.parametrize(
    ("batch", "reserved", "tokens", "admitted"),
    [
        (1, 1000, 944_029, True),  # exactly the capacity of 945029
        (1, 1000, 944_030, False),
        (3, 0, 10, True),
        (4, 0, 10, False),
        (0, 0, 2_000_000, True),
    ],
)
def test_admission(law: BatchingLaw, batch: int, reserved: int, tokens: int, admitted: bool) -> None:
    assert law.admits(batch, reserved, tokens) is admitted
