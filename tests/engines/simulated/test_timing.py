from __future__ import annotations

import asyncio
import logging
import math
import statistics
from itertools import pairwise

import pytest

from sla_planner.engines.simulated.timing import WINDOW_STEPS, Durations, StepStatistics, precise_event_loop
from sla_planner.errors import UsageError


def test_durations_follow_the_law(world):
    durations = Durations(world.options())
    assert durations.prefill_s(100) == pytest.approx(0.020)
    assert durations.decode_s(10, 1000) == pytest.approx(0.016)


def test_model_error_slows_the_engine_but_not_the_start_up(world):
    durations = Durations(world.options(model_error_percent=10, startup_s=30))
    assert durations.prefill_s(100) == pytest.approx(0.022)
    assert durations.startup_s() == 30


def test_time_scale_speeds_everything_up(world):
    durations = Durations(world.options(time_scale=10, startup_s=30))
    assert durations.decode_s(10, 1000) == pytest.approx(0.0016)
    assert durations.startup_s() == 3


def test_noise_keeps_the_mean_has_its_spread_and_its_seed(world):
    def steps(seed: int) -> list[float]:
        durations = Durations(world.options(noise=0.2, seed=seed))
        return [durations.prefill_s(100) for _ in range(4000)]

    sample = steps(1)
    assert statistics.fmean(sample) == pytest.approx(0.020, rel=0.02)
    assert statistics.stdev(map(math.log, sample)) == pytest.approx(0.2, rel=0.1)
    assert sample == steps(1)
    assert sample != steps(2)


@pytest.mark.parametrize(
    ("field", "value"),
    [("time_scale", 0), ("time_scale", math.nan), ("time_scale", math.inf), ("noise", -0.1), ("model_error_percent", -100), ("startup_s", math.inf)],
)
def test_values_out_of_range_are_refused(world, field, value):
    with pytest.raises(UsageError, match="-".join(field.split("_")[:2])):
        world.options(**{field: value})


def test_statistics_of_steps():
    record = StepStatistics()
    for late_ms in (0.0, 0.5, 3.0, 8.0):  # late from max(10 %, 1 ms) of 20 ms on
        record.record(lawful_s=0.020, real_s=0.020 + late_ms / 1000, late_s=late_ms / 1000, now_s=0)
    assert (record.steps, record.late_steps, record.late_share) == (4, 2, 0.5)
    assert record.error_percentiles() == (pytest.approx(0.15), pytest.approx(0.4))
    assert not record.keeps_up


def test_the_late_share_forgets(caplog):
    record = StepStatistics()
    for _ in range(WINDOW_STEPS):
        record.record(0.020, 0.030, 0.010, now_s=0)
    assert record.late_share == 1
    for _ in range(WINDOW_STEPS):
        record.record(0.020, 0.020, 0.0, now_s=0)
    assert record.late_share == 0
    assert record.keeps_up


def test_not_keeping_up_is_said_once_in_a_while(caplog):
    caplog.set_level(logging.WARNING)
    record = StepStatistics()
    for step in range(WINDOW_STEPS + 200):
        record.record(0.020, 0.030, 0.010, now_s=step * 0.03)
    (said,) = caplog.records
    assert said.getMessage().startswith("cannot keep up: 100 % of the last steps were late")


def test_a_late_wake_up_does_not_add_up(world):
    """A loop that was held up for 50 ms is back on schedule: the token after the hold-up is where it would have been."""

    async def test(fleet):
        loop = asyncio.get_running_loop()
        stream = world.submit(fleet, 100, 30)
        loop.call_at(0.030, loop.hold_up, 0.050)
        token_ms = await stream.end()
        # Without the hold-up the last token comes at 20 + 29 * 6 + 0.101 + 0.102 + ... + 0.129 ms
        assert token_ms[-1] == pytest.approx(20 + 174 + 3.335)
        assert max(b - a for a, b in pairwise(token_ms)) > 45

    world.run(world.options(), test)


def test_the_precise_loop_runs_timers_and_io():
    async def main() -> str:
        reader, writer = await asyncio.open_connection(*address)
        writer.write(b"x")
        answer = await reader.read(1)
        writer.close()
        return answer.decode()

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.002)
        writer.write(await reader.read(1))
        writer.close()

    async def with_server() -> str:
        nonlocal address
        async with await asyncio.start_server(echo, "127.0.0.1", 0) as server:
            address = server.sockets[0].getsockname()
            return await main()

    address = ("", 0)
    with asyncio.Runner(loop_factory=precise_event_loop) as runner:
        assert runner.run(with_server()) == "x"
