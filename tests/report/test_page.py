from __future__ import annotations

import base64
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from sla_planner.plan.observation import Observation, WorkerCounts, unknown_traffic
from sla_planner.report import page

PIXEL = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==")
VOID = {"meta", "img", "br", "hr", "link", "input"}


class Parsed(HTMLParser):
    """Every tag with its attributes, the text of every table row, and whether tags closed in order."""

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
            self.text.setdefault(self._open[-1], []).append(data)
        if "td" in self._open or "th" in self._open:
            self.rows[-1][-1] += data


def test_the_page_stands_alone(tiny):
    parsed = Parsed(page.html(tiny, dict.fromkeys(page.CAPTIONS, PIXEL)))
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in parsed.tags}
    references = [value for _, attrs in parsed.tags for name, value in attrs.items() if name in ("src", "href", "srcset", "action")]
    assert len(references) == 4
    assert all(value.startswith("data:image/png;base64,") for value in references)
    assert base64.b64decode(references[0].split(",")[1]) == PIXEL
    assert not any("url(" in style or "@import" in style for style in parsed.text["style"])


def test_pictures_carry_their_caption_as_text(tiny):
    parsed = Parsed(page.html(tiny, {"ttft.png": PIXEL}))
    (attrs,) = [attrs for tag, attrs in parsed.tags if tag == "img"]
    assert attrs["alt"] == page.CAPTIONS["ttft.png"] == parsed.text["figcaption"][0]


def test_the_headline_is_the_result(tiny):
    parsed = Parsed(page.html(tiny, {}))
    assert parsed.text["p"][0].replace("\u00a0", " ") == "50.0 % of 4 requests inside TTFT 500 ms and ITL 50 ms; "
    assert parsed.text["span"][0].replace("\u00a0", " ") == "34 % fewer GPU-seconds than a fleet sized for the peak"
    assert "promised 50 %: kept" in parsed.text["p"]


def test_changes_and_every_tick_are_listed(tiny):
    rows = Parsed(page.html(tiny, {})).rows
    assert ["00:04", "prefill", "1 → 2", "load-up", "load 0.8 -> 1.6"] in rows
    assert ["00:04", "decode", "2 → 3", "load-up", "load 0.8 -> 1.6"] in rows
    assert ["00:08", "prefill", "2 → 1", "load-down", "the grace period is over"] in rows
    ticks = [row for row in rows if len(row) == 8]
    assert [row[0] for row in ticks] == ["Time", "00:02", "00:04", "00:08"]
    assert ticks[1][1:7] == ["8.0 req/s", "180 ms", "22 ms", "1", "2", "No scaling needed (prefill=1, decode=2)"]
    assert ticks[2][7] == "prefill load-up: load 0.8 -> 1.6decode load-up: load 0.8 -> 1.6"


def test_what_was_not_seen_is_called_unknown(tiny):
    blind = Observation(unknown_traffic(tiny.start_s + 2, 1.0, "no answer"), None, WorkerCounts(1, 2, 3))
    report = replace(tiny, ticks=(replace(tiny.ticks[0], observation=blind),))
    row = Parsed(page.html(report, {})).rows[-1]
    assert row[1:6] == ["unknown", "unknown", "unknown", "unknown", "1, 2 starting, 3 unschedulable"]


def test_a_run_that_changed_nothing_says_so(tiny):
    assert "None: the fleet stayed as it was." in page.html(replace(tiny, ticks=()), {})


def test_verdicts_are_heard_once(tiny):
    infeasible = tuple(replace(tick, decision=replace(tick.decision, verdicts=("TTFT 5 ms cannot be met",))) for tick in tiny.ticks)
    assert page.html(replace(tiny, ticks=infeasible), {}).count("TTFT 5 ms cannot be met") == 1


@pytest.mark.parametrize("where", ["title", "facts", "explanation", "verdict"])
def test_text_from_outside_cannot_inject(tiny, where):
    evil = '"><script>alert(1)</script><img src=x onerror=alert(2)>'
    decision = replace(tiny.ticks[1].decision, prefill=replace(tiny.ticks[1].decision.prefill, explanation=evil), verdicts=(evil,))
    report = {
        "title": replace(tiny, title=evil),
        "facts": replace(tiny, facts=((evil, evil),)),
        "explanation": replace(tiny, ticks=(replace(tiny.ticks[1], decision=replace(decision, verdicts=())),)),
        "verdict": replace(tiny, ticks=(replace(tiny.ticks[1], decision=decision),)),
    }[where]
    parsed = Parsed(page.html(report, {}))
    assert not {"script", "img"} & {tag for tag, _ in parsed.tags}
    assert any(evil in text for texts in parsed.text.values() for text in texts)
