from __future__ import annotations

import base64
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from sla_planner.model.profile import Flag, ParallelMapping
from sla_planner.report import sweep_page, sweep_plots
from sla_planner.sweep.points import DecodeShape, Point

PIXEL = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==")
VOID = {"meta", "img", "br", "hr", "link", "input"}
FACTS = [("Version", "0.1.0")]


class Parsed(HTMLParser):
    """Tags with attributes, rows of tables, text by its nearest tag; tags must close in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.text: dict[str, list[str]] = {}
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open:
            self.text.setdefault(self._open[-1], []).append(data.replace("\u00a0", " "))
        if "td" in self._open or "th" in self._open:
            self.rows[-1][-1] += data.replace("\u00a0", " ")


def parsed(result, pictures=None):
    return Parsed(sweep_page.html(result, pictures or {}, FACTS))


def test_the_page_stands_alone(sweep):
    paths = list(sweep_plots.figures(sweep))
    page = parsed(sweep, dict.fromkeys(paths, PIXEL))
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.tags}
    references = [value for _, attrs in page.tags for name, value in attrs.items() if name in ("src", "href", "srcset", "action")]
    assert len(references) == len(paths) == 8
    assert all(base64.b64decode(value.removeprefix("data:image/png;base64,")) == PIXEL for value in references)
    assert not any("url(" in style or "@import" in style for style in page.text["style"])
    captions = [attrs["alt"] for tag, attrs in page.tags if tag == "img"]
    assert captions == list(sweep_page.CAPTIONS.values())
    assert page.text["code"] == [path for name in sweep_page.CAPTIONS for path in paths if path.split("/")[-1].startswith(name)]


def test_the_headline_is_the_pick_and_says_for_whom(sweep):
    said = parsed(sweep).text["p"]
    assert said[0] == "TTFT 50 ms and ITL 8 ms are kept by prefill on TP2 and decode on TP4; in use they were missed: 97.2 % of 400 requests inside"
    assert said[1] == "for 99 % of requests of 3,000 tokens in and 150 out"
    assert "a mapping keeps the promise" in said


def test_what_cannot_be_met_says_the_nearest_and_what_to_change(impossible):
    said = parsed(impossible).text["p"]
    assert said[0].startswith("TTFT 10 ms cannot be met: the nearest is ")
    assert "the promise cannot be met" in said
    assert any(text.startswith("What to change: set --ttft 22, or ") for text in said)


def test_the_verdict_in_use(sweep):
    def verdict(**changed):
        return [text for text in parsed(replace(sweep, verification=replace(sweep.verification, **changed))).text["p"] if "in use" in text]

    assert "in use the promise is missed" in verdict()  # 97.2 of 99 % inside
    assert "in use it differs from the profile" in verdict(inside=399)
    assert "verified in use" in verdict(inside=399, comparisons=sweep.verification.comparisons[:2])
    assert "not verified in use" in parsed(replace(sweep, verification=None)).text["p"]
    assert ["TTFT at 24 in flight", "52.7 ms", "64.8 ms", "23 % slower than the profile says (more than the 15 % that are tolerated)"] in parsed(
        sweep
    ).rows


def test_every_mapping_has_a_row_and_a_reason(sweep):
    rows = [row for row in parsed(sweep).rows if len(row) == 6 and row[0].startswith("TP")]
    chosen = [row for row in rows if row[-1] == "picked"]
    assert [row[0] for row in chosen] == ["TP2", "TP4"]
    reasons = {row[0]: row[-1] for row in rows[:4]}
    assert reasons["TP1"] == "TTFT 26 % above the promised 50 ms"
    assert reasons["TP8"].endswith("less throughput per GPU than TP2")


def test_every_point_is_listed_with_its_doubts(sweep):
    page = parsed(sweep)
    of_decode = [row for row in page.rows if len(row) == 6 and row[2].endswith("%")]
    of_prefill = [row for row in page.rows if len(row) == 5 and row[0][0].isdigit()]
    assert len(of_decode) == sum(len(measurement.points) for measurement in sweep.profile.decode)
    assert len(of_prefill) == sum(len(measurement.points) + len(measurement.batched) for measurement in sweep.profile.prefill)
    doubts = {row[-1] for row in of_decode + of_prefill}
    assert doubts == {
        "",
        "the client was late by 8.1 ms",
        "some requests were queueing: fewer ran at once than it claims",
        "far from the law that the other points follow",
    }
    assert sum(attrs.get("class") == "flagged" for tag, attrs in page.tags if tag == "tr") == 3
    assert "3 of 1024 requests ended with HTTP 500" in page.text["dd"]


def test_engines_cost_and_what_was_left_out_are_told(sweep):
    page = parsed(sweep)
    facts = sweep.facts[ParallelMapping(tp=4)]
    row = ["TP4", "4", f"{facts.max_kv_tokens:,}", "the engine's log: `GPU KV cache size`", "256", "74 s", "ids", "1"]
    assert row in page.rows
    assert [text for text in page.text["dt"] if text in ("TP16", "TP3")] == ["TP16", "TP3"]
    assert "needs 16 GPUs, one engine may have 8" in page.text["dd"]
    assert any(row[0] == "Cost" and row[1].startswith("38:12 and 4.37 GPU-hours: ") for row in page.rows)
    assert "0.1.0" in page.text["dd"]


def test_an_offline_profile_says_that_nothing_was_measured(make_sweep):
    page = parsed(make_sweep(raw=False, verified=False))
    assert ["Cost", "nothing was measured: the profile is offline"] in page.rows
    assert "Engines" not in page.text["h2"]


@pytest.mark.parametrize("where", ["model", "note", "defect", "left out", "warning", "source", "how", "at"])
def test_text_from_outside_cannot_inject(sweep, where):
    evil = '"><script>alert(1)</script><img src=x onerror=alert(2)>'
    measurement = sweep.profile.prefill[0]
    noted = replace(measurement, points=tuple(replace(point, flags=(Flag.REPORTED,), note=evil) for point in measurement.points))
    first = next(iter(sweep.facts))
    result = {
        "model": replace(sweep, profile=replace(sweep.profile, provenance=replace(sweep.profile.provenance, model=evil))),
        "note": replace(sweep, profile=replace(sweep.profile, prefill=(noted, *sweep.profile.prefill[1:]))),
        "defect": replace(sweep, points=(Point(first, DecodeShape(1, 1), defects=(evil,)),)),
        "left out": replace(sweep, left_out=((evil, evil),)),
        "warning": replace(sweep, warnings=(evil,)),
        "source": replace(sweep, facts={first: replace(sweep.facts[first], kv_source=evil)}),
        "how": replace(sweep, verification=replace(sweep.verification, how=evil, warnings=(evil,))),
        "at": replace(sweep, decode_candidates=tuple(replace(one, at=evil) for one in sweep.decode_candidates)),
    }[where]
    page = parsed(result)
    assert not {"script", "img"} & {tag for tag, _ in page.tags}
    assert any(evil in text for texts in page.text.values() for text in texts)
