"""One target, tick by tick, in this process: real pages over HTTP, a real target file, a real state file, a clock of the test's own."""

import json
import logging
import math
import shutil
from functools import reduce
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tests.stages.frontend_page import INTERVAL_S, RESTARTED, SCRIPT, START_S, frontend

from sla_planner.cluster.virtual import open_virtual_client, open_virtual_target
from sla_planner.errors import PlannerError
from sla_planner.model.profile import slowed
from sla_planner.plan.record import Carried, Tick
from sla_planner.plan.state import FORMAT
from sla_planner.planner_config import TargetConfig
from sla_planner.stages.planner_open import open_target
from sla_planner.stages.planner_target import NO_OPERATION
from sla_planner.store.profile_files import read_profile, sample_profile_dir, write_npz_tree
from sla_planner.store.state_file import StateFile

FUZZ = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def opened(page, fleet, state=None, *, acts=True, alone=True, **settings):
    fields = {"adjustment_interval": INTERVAL_S, "startup_s": 30.0, "profile_results_dir": Path(sample_profile_dir())}
    config = TargetConfig(scrape_url=(page.url,), virtual_target=f"file:{fleet}", **{**fields, **settings})
    return open_target(config, store=StateFile(state) if state else None, standing=lambda: "" if acts else NO_OPERATION, alone=alone)


def obeyed(fleet):
    """What the other side of the target file does: it carries the last decision out."""
    client = open_virtual_client(f"file:{fleet}")
    client.complete(client.get())


def asked(fleet):
    document = json.loads(fleet.read_text())
    return document["num_prefill_workers"], document["num_decode_workers"]


class TestOnceIsTheLoop:
    @pytest.mark.parametrize(("predictor", "sizing"), [("ewma", "risk"), ("constant", "mean"), ("arima", "risk"), ("arima", "mean")])
    def test_a_planner_opened_anew_for_every_tick_decides_as_one_that_runs_on(self, page, tmp_path, sizing, predictor):
        changes = {"sizing": sizing, "load_predictor": predictor, "grace_s": 20.0}
        lasting = opened(page, tmp_path / "lasting.json", **changes)
        seen, requests = set(), 0
        for index, (arrived, ttft_s, status) in enumerate(SCRIPT):
            requests = arrived if index == RESTARTED else requests + arrived  # the frontend was restarted
            page.status, page.text = status, frontend(requests, requests - requests // 50, ttft_s)
            now_s = START_S + index * INTERVAL_S + index % 3 * 0.4
            tick = lasting.tick(now_s)
            anew = opened(page, tmp_path / "anew.json", tmp_path / "state.json", **changes).tick(now_s)
            assert anew == tick
            assert anew.to_json() == tick.to_json()
            seen.add((tick.decision.prefill.desired, tick.decision.decode.desired))
            if index % 4:  # and one decision in four is not carried out in time
                obeyed(tmp_path / "lasting.json")
                obeyed(tmp_path / "anew.json")
        assert len(seen) > 2

    def test_a_planner_that_forgets_decides_otherwise(self, page, tmp_path):
        """Else the test above could not fail."""
        lasting = opened(page, tmp_path / "fleet.json")
        for index in range(3):
            page.text = frontend(500 * index, 500 * index)
            tick = lasting.tick(START_S + index * INTERVAL_S)
            forgetful = opened(page, tmp_path / "other.json").tick(START_S + index * INTERVAL_S)
            obeyed(tmp_path / "fleet.json")
        assert tick.decision.prefill.desired > forgetful.decision.prefill.desired == 1


class TestActing:
    def test_a_fleet_never_set_is_brought_to_the_minimum_while_traffic_is_unknown(self, page, tmp_path):
        page.status = 500
        target = opened(page, tmp_path / "fleet.json", min_endpoint=2, max_decode_replicas=5, min_decode_replicas=3)
        tick = target.tick(START_S)
        assert (tick.carried, asked(tmp_path / "fleet.json")) == (Carried.APPLIED, (2, 3))

    def test_no_operation_observes_and_explains_but_the_target_is_never_touched(self, page, tmp_path, caplog):
        caplog.set_level(logging.INFO)
        fleet = tmp_path / "fleet.json"
        target = opened(page, fleet, tmp_path / "state.json", acts=False)
        for index, requests in enumerate((0, 600, 1200)):
            page.text = frontend(requests, requests)
            tick = target.tick(START_S + index * INTERVAL_S)
        assert tick.carried is Carried.ADVISORY
        assert tick.decision.prefill.desired > 1
        assert not fleet.exists()
        assert not fleet.with_name("fleet.json.lock").exists()
        assert "Observed num_req: 600.000 isl: 3000.000 osl: 150.000" in caplog.text
        assert f"Would be scaling prefill workers: 0 -> {tick.decision.prefill.desired} (" in caplog.text
        assert caplog.messages[-1].startswith(f"Not asked for prefill={tick.decision.prefill.desired}, ")
        assert caplog.messages[-1].endswith(": --no-operation")
        assert (tmp_path / "state.json").exists()

    def test_a_decision_that_waits_for_the_one_before_says_so(self, page, tmp_path, caplog):
        caplog.set_level(logging.INFO)
        target = opened(page, tmp_path / "fleet.json")
        page.text = frontend(0, 0)
        target.tick(START_S)
        page.text = frontend(600, 600)
        tick = target.tick(START_S + INTERVAL_S)
        assert (tick.carried, asked(tmp_path / "fleet.json")) == (Carried.WAITING, (1, 1))
        assert "decision 0 is not acknowledged yet" in caplog.messages[-1]
        page.text = frontend(1200, 1200)
        tick = target.tick(START_S + INTERVAL_S + 1801)
        page.text = frontend(1800, 1800)
        tick = target.tick(START_S + 2 * INTERVAL_S + 1801)
        assert tick.carried is Carried.APPLIED
        assert "although decision 0 was not acknowledged within 1800 s" in caplog.messages[-1]

    @pytest.mark.parametrize(
        ("content", "told"),
        [("{", "is not JSON"), ('{"num_prefill_workers": "many"}', "num_prefill_workers is 'many'"), ("[]", "holds no JSON object")],
    )
    def test_a_corrupt_target_file_is_left_as_it_is_and_said(self, page, tmp_path, caplog, content, told):
        caplog.set_level(logging.INFO)
        fleet = tmp_path / "fleet.json"
        fleet.write_text(content)
        target = opened(page, fleet)
        for index in range(2):
            page.text = frontend(600 * index, 600 * index)
            tick = target.tick(START_S + index * INTERVAL_S)
        assert (tick.carried, fleet.read_text()) == (Carried.NOTHING, content)
        assert told in caplog.text
        assert caplog.messages[-1] == "Nothing decided: the number of workers is unknown"
        fleet.unlink()
        page.text = frontend(1200, 1200)
        assert target.tick(START_S + 2 * INTERVAL_S).carried is Carried.APPLIED

    def test_unknown_traffic_is_not_said_to_need_no_scaling(self, page, tmp_path, caplog):
        caplog.set_level(logging.INFO)
        target = opened(page, tmp_path / "fleet.json")
        open_virtual_target(f"file:{tmp_path / 'fleet.json'}").apply(3, 2, now_s=START_S)
        page.status = 503
        target.tick(START_S)
        assert caplog.messages[-1] == "Nothing decided, holding prefill=3, decode=2"
        assert f"Traffic is unknown: {page.url}: HTTP 503" in caplog.messages

    def test_a_state_that_cannot_be_saved_is_said_and_the_decision_stands(self, page, tmp_path, caplog):
        target = opened(page, tmp_path / "fleet.json", tmp_path / "absent" / "state.json")
        assert target.tick(START_S).carried is Carried.APPLIED
        assert "The state could not be saved: cannot write" in caplog.text

    def test_of_several_targets_every_line_names_its_own(self, page, tmp_path, caplog):
        caplog.set_level(logging.INFO)
        opened(page, tmp_path / "fleet.json", alone=False, name="chat").tick(START_S)
        assert all(line.startswith("[chat] ") for line in caplog.messages)
        assert {record.target for record in caplog.records} == {"chat"}


class TestANewProfile:
    def test_is_taken_while_the_planner_runs(self, page, tmp_path, caplog):
        shutil.copytree(sample_profile_dir(), tmp_path / "profile")
        target = opened(page, tmp_path / "fleet.json", profile_results_dir=tmp_path / "profile")
        target.tick(START_S)
        before = target.basis.engine.prefill.ttft_ms(3000)
        write_npz_tree(slowed(read_profile(sample_profile_dir()), 2.0), tmp_path / "profile")
        target.tick(START_S + INTERVAL_S)
        assert "there is a new profile: starting afresh" in caplog.text
        assert target.basis.engine.prefill.ttft_ms(3000) == pytest.approx(2 * before, rel=0.01)

    def test_that_is_of_no_use_leaves_the_old_one(self, page, tmp_path, caplog):
        shutil.copytree(sample_profile_dir(), tmp_path / "profile")
        target = opened(page, tmp_path / "fleet.json", profile_results_dir=tmp_path / "profile")
        target.tick(START_S)
        engine = target.basis.engine
        (tmp_path / "profile" / "profile.json").write_text("{")
        for index in (1, 2):
            target.tick(START_S + index * INTERVAL_S)
        assert target.basis.engine is engine
        assert caplog.text.count("Going on with the profile of before") == 1


class TestRestoring:
    def written(self, page, folder):
        """A state that has seen some traffic."""
        target = opened(page, folder / "fleet.json", folder / "state.json")
        for index in range(4):
            page.text = frontend(400 * index, 390 * index)
            target.tick(START_S + index * INTERVAL_S)
            obeyed(folder / "fleet.json")
        return json.loads((folder / "state.json").read_text())

    def test_another_promise_starts_afresh_and_says_why(self, page, tmp_path, caplog):
        self.written(page, tmp_path)
        caplog.clear()
        target = opened(page, tmp_path / "fleet.json", tmp_path / "state.json", ttft=300.0)
        assert target.state.gpu_seconds == 0
        assert caplog.messages == ["the saved state was made with another sla: starting afresh"]
        assert not (tmp_path / "state.json.bad").exists()
        page.text = frontend(1600, 1600)
        assert target.tick(START_S + 4 * INTERVAL_S).observation.traffic.request_rate_rps.known  # the readings are of no promise

    def test_pages_of_another_server_are_a_first_reading(self, page, tmp_path):
        self.written(page, tmp_path)
        target = opened(page, tmp_path / "fleet.json", tmp_path / "state.json", model_name="other")
        assert target.state.gpu_seconds > 0
        assert "first reading" in target.tick(START_S + 4 * INTERVAL_S).observation.traffic.request_rate_rps.why

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"{",
            b"\xff\xfe",
            b"[1]",
            b"null",
            b"[" * 100_000,
            b'{"plan": ' * 100_000,
            b"{}",
            b'{"plan": 3}',
            b'{"kind": "Pod", "apiVersion": "v1"}',
            f'{{"plan": {{"format": {FORMAT}}}}}'.encode(),
        ],
    )
    def test_what_is_no_state_is_set_aside_with_a_warning(self, page, tmp_path, caplog, content):
        state = tmp_path / "state.json"
        state.write_bytes(content)
        target = opened(page, tmp_path / "fleet.json", state)
        assert (tmp_path / "state.json.bad").read_bytes() == content
        (line,) = caplog.messages
        assert line.startswith(f"state {state} is not ")
        assert line.endswith("; kept as state.json.bad, starting afresh")
        assert len(line) < len(str(state)) + 200
        target.tick(START_S)
        assert json.loads(state.read_text())["target"] == "default"

    def test_a_truncated_state_is_set_aside(self, page, tmp_path):
        text = json.dumps(self.written(page, tmp_path))
        for length in range(1, len(text), 997):
            (tmp_path / "state.json").write_text(text[:length])
            opened(page, tmp_path / "fleet.json", tmp_path / "state.json")
            assert (tmp_path / "state.json.bad").read_text() == text[:length]

    @FUZZ
    @given(data=st.data())
    def test_no_state_however_damaged_stops_the_planner(self, page, tmp_path_factory, valid_state, data):
        """One value of a real state is replaced by anything, at any depth."""
        document = json.loads(valid_state)
        paths = list(places(document))
        *parents, last = data.draw(st.sampled_from(paths))
        reduce(lambda inner, key: inner[key], parents, document)[last] = data.draw(ANY_JSON)
        folder = tmp_path_factory.mktemp("damaged")
        fleet = folder / "fleet.json"
        (folder / "state.json").write_text(json.dumps(document))
        open_virtual_target(f"file:{fleet}").apply(2, 3, now_s=START_S)
        obeyed(fleet)
        page.status, page.text = 500, ""
        target = opened(page, fleet, folder / "state.json")
        target.tick(START_S + 5 * INTERVAL_S)
        assert asked(fleet) == (2, 3)
        page.status = 200
        for index in (6, 7):
            page.text = frontend(500 * index, 500 * index)
            checked(target.tick(START_S + index * INTERVAL_S))
        json.loads((folder / "state.json").read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))

    @pytest.fixture
    def valid_state(self, page, tmp_path):
        return json.dumps(self.written(page, tmp_path))


NUMBERS = st.one_of(st.integers(), st.floats(), st.sampled_from([0, -1, 10**400, 1e308, -1e308, 5e-324, math.inf, math.nan, 2**63]))
ANY_JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=4,
)


def places(document, above=()):
    """Every place in a JSON document, as a path of keys and indexes."""
    items = document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    for key, value in items:
        yield (*above, key)
        yield from places(value, (*above, key))


def checked(tick):
    """A tick that can be written, read back, and means what it says."""
    text = json.dumps(tick.to_json(), allow_nan=False)
    assert Tick.from_json(json.loads(text)).to_json() == tick.to_json()
    for role in (tick.decision.prefill, tick.decision.decode):
        assert role.desired >= 0
        assert role.explanation
    return tick


NAMES = sorted({line.split("{")[0].split(" ")[0] for line in frontend(9, 9).splitlines()})
VALUES = st.one_of(
    st.sampled_from(["0", "1", "NaN", "+Inf", "-Inf", "1e999", "-1", "1e308", "-1e308", "5e-324", "nan", "inf"]),
    st.integers(0, 10**6).map(str),
    st.floats().map(repr),
)
LABELS = st.sampled_from(
    ["", '{le="0.5"}', '{le="+Inf"}', '{le="NaN"}', '{le="x"}', '{le="-1"}', '{le="2048"}', '{model="m"}', '{le="0.5",model="m"}']
)
LINES = st.builds("{}{} {}".format, st.sampled_from(NAMES), LABELS, VALUES)
STRUCTURED = st.lists(LINES, max_size=30).map("\n".join)
PAGES = st.one_of(STRUCTURED, STRUCTURED, st.text(max_size=80), st.just(frontend(500, 480)), st.just(frontend(10, 1)))


@FUZZ
@example(texts=[("dynamo_frontend_output_sequence_tokens_sum -4799928001", 200), (frontend(500, 480), 200)], sizing="risk")  # 10 million a request
@example(texts=[("dynamo_frontend_output_sequence_tokens_sum -3e12", 200), (frontend(500, 480), 200)], sizing="mean")  # > 2**31 workers
@given(texts=st.lists(st.tuples(PAGES, st.sampled_from([200, 200, 200, 500])), min_size=2, max_size=5), sizing=st.sampled_from(["risk", "mean"]))
def test_no_page_however_odd_stops_the_planner_or_moves_an_unseen_fleet(page, tmp_path_factory, texts, sizing):
    folder = tmp_path_factory.mktemp("odd")
    fleet = folder / "fleet.json"
    open_virtual_target(f"file:{fleet}").apply(2, 3, now_s=START_S)
    obeyed(fleet)
    target = opened(page, fleet, folder / "state.json", sizing=sizing)
    for index, (text, status) in enumerate(texts):
        page.text, page.status = text, status
        before = asked(fleet)
        tick = checked(target.tick(START_S + index * INTERVAL_S))
        if not tick.observation.traffic.request_rate_rps.known:
            assert asked(fleet) == before
        obeyed(fleet)
        again = opened(page, fleet, folder / "state.json", sizing=sizing)
        assert again.state.gpu_seconds == target.state.gpu_seconds


def test_a_target_that_can_never_work_is_refused_when_it_is_opened(page, tmp_path):
    with pytest.raises(PlannerError, match=r"pip install 'sla-planner\[prophet\]'|pip install"):
        opened(page, tmp_path / "fleet.json", load_predictor="prophet")
