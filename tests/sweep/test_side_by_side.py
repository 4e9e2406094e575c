"""Several engines at once: what starts when, who measures alone, and that nothing is measured otherwise than one after the other."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from sla_planner.errors import EngineError
from sla_planner.model.profile import ParallelMapping
from sla_planner.sweep import runner
from sla_planner.sweep.points import Point, PrefillSeen
from sla_planner.sweep.port import Deployment, Phase
from sla_planner.sweep.side_by_side import Turn, Turns, side_by_side

TP1, TP2, TP4 = (Deployment(ParallelMapping(tp=n), Phase.PREFILL) for n in (1, 2, 4))


class Work:
    """Runs until told; `begun` and `ended` in order."""

    def __init__(self):
        self.begun, self.ended = [], []
        self.may_end = {}

    async def run(self, gpus):
        self.begun.append(gpus)
        self.may_end[gpus] = asyncio.get_running_loop().create_future()
        try:
            return await self.may_end[gpus]
        finally:
            self.ended.append(gpus)

    async def begins(self, *gpus):
        while self.begun != list(gpus):
            await asyncio.sleep(0)


def under_way(work, items, most):
    return asyncio.ensure_future(side_by_side(items, lambda gpus: gpus, most, work.run))


def test_what_fits_runs_at_once_and_results_keep_their_order():
    async def go():
        work = Work()
        task = under_way(work, [1, 2, 4, 8], 6)
        await work.begins(1, 2)  # 4 more would be 7
        work.may_end[1].set_result("one")
        await work.begins(1, 2, 4)
        work.may_end[4].set_result("four")
        work.may_end[2].set_result("two")
        await work.begins(1, 2, 4, 8)  # more than all, but alone
        work.may_end[8].set_result("eight")
        assert await task == ["one", "two", "four", "eight"]

    asyncio.run(go())


def test_a_smaller_one_goes_before_one_that_does_not_fit():
    async def go():
        work = Work()
        task = under_way(work, [4, 8, 2], 8)
        await work.begins(4, 2)
        for gpus in (4, 2):
            work.may_end[gpus].set_result(gpus)
        await work.begins(4, 2, 8)
        work.may_end[8].set_result(8)
        assert await task == [4, 8, 2]

    asyncio.run(go())


def test_without_a_number_one_follows_the_other():
    async def go():
        work = Work()
        task = under_way(work, [2, 1], None)
        await work.begins(2)
        await asyncio.sleep(0)
        assert work.begun == [2]
        work.may_end[2].set_result(2)
        await work.begins(2, 1)
        work.may_end[1].set_result(1)
        assert await task == [2, 1]

    asyncio.run(go())


@pytest.mark.parametrize("how", ["fault", "cancelled"])
def test_the_first_fault_ends_the_others_first(how):
    async def go():
        work = Work()
        task = under_way(work, [1, 2, 4], 3)
        await work.begins(1, 2)
        if how == "fault":
            work.may_end[2].set_exception(ValueError("of the second"))
        else:
            task.cancel()
        with pytest.raises((ValueError, asyncio.CancelledError)):
            await task
        assert (work.begun, sorted(work.ended)) == ([1, 2], [1, 2])

    asyncio.run(go())


# turns


class Mapping:
    """Measures points of one turn of the loop each; `log` is shared."""

    def __init__(self, name, turns, log):
        self.name, self.log = name, log
        self.turn = Turn(turns, self.quiet)
        self.in_flight = False

    async def quiet(self):
        self.in_flight = False

    async def point(self):
        await self.turn.give_way()
        self.in_flight = True
        await asyncio.sleep(0)
        self.log.append(self.name)


def test_whoever_measures_alone_has_nothing_beside_it():
    async def go():
        log, turns = [], Turns()
        one, two = Mapping("one", turns, log), Mapping("two", turns, log)
        seen = []

        async def first():
            async with one.turn.held():
                await one.point()
                async with one.turn.alone():
                    seen.append((one.in_flight, two.in_flight))
                    before = list(log)
                    for _ in range(5):
                        await asyncio.sleep(0)
                    seen.append(log == before)
                await one.point()

        async def second():
            async with two.turn.held():
                for _ in range(20):
                    await two.point()

        await asyncio.gather(first(), second())
        assert seen == [(False, False), True]
        assert log.count("two") == 20
        assert log.count("one") == 2

    asyncio.run(go())


def test_two_that_want_to_be_alone_follow_each_other():
    async def go():
        turns, alone, most = Turns(), 0, 0

        async def wanting():
            nonlocal alone, most
            turn = Turn(turns, lambda: asyncio.sleep(0))
            async with turn.held(), turn.alone():
                alone += 1
                most = max(most, alone)
                await asyncio.sleep(0)
                alone -= 1

        await asyncio.wait_for(asyncio.gather(*(wanting() for _ in range(4))), 20)
        assert most == 1

    asyncio.run(go())


def test_one_that_ends_while_it_is_alone_holds_nobody_up():
    async def go():
        turns = Turns()
        turn, other = Turn(turns, lambda: asyncio.sleep(0)), Turn(turns, lambda: asyncio.sleep(0))
        with pytest.raises(ValueError):
            async with turn.held(), turn.alone():
                raise ValueError
        async with asyncio.timeout(20), other.held(), other.alone():
            assert not other.among_others

    asyncio.run(go())


# a sweep


class Saved(dict):
    """A checkpoint."""

    facts = point = dict.get
    save_facts = save_point = dict.__setitem__


def test_side_by_side_is_measured_what_is_measured_one_after_the_other(engines, swept, profile_with, monkeypatch):
    """The clock is taken out: TTFT is 5 + 0.02*isl ms over the GPUs, and no try is doubted."""

    async def exact(measurer, shape):
        await measurer.clients.of(shape.isl_tokens)
        await asyncio.sleep(0.001)
        ttft_ms = (5 + 0.02 * shape.isl_tokens) / measurer.mapping.gpus
        return Point(measurer.mapping, shape, PrefillSeen(shape.isl_tokens, (ttft_ms,) * 5, 0.1, 0.0))

    monkeypatch.setattr(runner.Measurer, "prefill", exact)
    known = profile_with(tp=(1, 2, 4))
    serial, launcher, saved, most = swept(engines(known), TP1, TP2, TP4), engines(known), Saved(), []
    beside = swept(launcher, TP1, TP2, TP4, memory=saved, gpus_at_once=7, watch=lambda _: most.append(len(launcher.running)))
    assert max(most) == 3

    def without_start(runs):
        return [replace(run, facts=replace(run.facts, start_s=0.0)) for run in runs]

    assert without_start(beside.runs) == without_start(serial.runs)
    assert len({point.mapping for point in saved.values() if isinstance(point, Point)}) == 3
    counts = [progress.done for progress in beside.told]
    assert counts == sorted(counts)
    assert beside.told[-1].done == beside.told[-1].expected == beside.sweep.tally.measured
    assert beside.sweep.tally.deployments == 3
    assert launcher.running == []


def test_a_sweep_that_was_stopped_while_several_ran_goes_on_where_it_was(engines, swept, profile_with):
    launcher, saved = engines(profile_with(tp=(1, 2))), Saved()

    def stop(progress):
        if progress.point is not None and progress.done == 3:
            asyncio.current_task().cancel()

    with pytest.raises(asyncio.CancelledError):
        swept(launcher, TP1, TP2, memory=saved, gpus_at_once=3, watch=stop)
    assert launcher.running == []
    before = {key: value for key, value in saved.items() if isinstance(value, Point)}
    assert len(before) >= 3
    done = swept(launcher, TP1, TP2, memory=saved, gpus_at_once=3)
    assert done.sweep.tally.reused == len(before)
    assert before.items() <= saved.items()


def test_those_that_do_not_start_are_left_out_in_the_order_of_the_sweep(engines, swept, profile_with):
    launcher = engines(profile_with(tp=(1, 2, 4)), failing={"TP2 prefill": [EngineError("no")], "TP1 prefill": [EngineError("no")]})
    done = swept(launcher, TP1, TP2, TP4, gpus_at_once=8)
    assert [label for label, _ in done.sweep.left_out] == ["TP1 prefill", "TP2 prefill"]
    assert [run.deployment for run in done.runs] == [TP4]


def test_a_point_that_is_not_trusted_is_measured_again_with_nothing_beside_it(engines, swept, profile_with, monkeypatch):
    """The first try of one shape of TP1 is spoilt; at its second nobody else is between two points."""
    tries, alone = [], []
    real = runner.Measurer.prefill

    async def spoilt(measurer, shape):
        point = await real(measurer, shape)
        if measurer.mapping.tp == 1 and shape.concurrency == 1 and not tries:
            tries.append(shape)
            return replace(point, defects=("the client itself ran late",))
        if tries == [shape] and measurer.mapping.tp == 1:
            tries.append(shape)
            alone.append(sweeps[0].sweep.turns.measuring)
        return point

    monkeypatch.setattr(runner.Measurer, "prefill", spoilt)
    sweeps = []
    done = swept(engines(profile_with(tp=(1, 2))), TP1, TP2, gpus_at_once=3, seen=sweeps.append)
    assert alone == [1]
    assert len(tries) == 2
    assert not any(point.defects for run in done.runs for point in run.points if point.shape == tries[0])
