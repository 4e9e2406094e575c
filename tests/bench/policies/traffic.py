"""The recorded days that policies are compared on, and what becomes of them: more or less load, another hour of the day, a second day.

Recordings are found by name; nothing of them is shipped but the excerpt, which stands in where no folder is given.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from sla_planner.traffic.trace import Trace, read_trace, sample_trace_path

DAY_S = 86_400.0
ROW_S, BURST = 600.0, 4.0
SEED = 0  # of copies and their jitter, as the program's own


@dataclass(frozen=True, slots=True)
class Promise:
    """Milliseconds."""

    ttft_ms: float
    itl_ms: float

    def __str__(self) -> str:
        return f"{self.ttft_ms:g}/{self.itl_ms:g}"

    def or_laxer(self, other: Promise) -> Promise:
        return Promise(max(self.ttft_ms, other.ttft_ms), max(self.itl_ms, other.itl_ms))


@dataclass(frozen=True, slots=True)
class Rates:
    """One day (0 ..) out of a table of recorded rates, a column of requests/s with a row for every `ROW_S` seconds, taken to a mean of `mean_rps`."""

    path: str
    column: str
    day: int
    mean_rps: float

    def trace(self, lengths: Trace) -> Trace:
        """Arrivals at these rates, Gamma-Poisson with a variance of `BURST` times the mean in a second; lengths of requests drawn from `lengths`."""
        recorded = np.genfromtxt(self.path, delimiter=",", names=True)[self.column]
        rows = int(DAY_S / ROW_S)
        rates = recorded[self.day * rows : (self.day + 1) * rows]
        rates = np.where(rates > 0, rates, np.median(rates[rates > 0]))  # a zero is a gap of the recording
        rps = np.interp(np.arange(DAY_S) + 0.5, (np.arange(rows) + 0.5) * ROW_S, rates * self.mean_rps / rates.mean())
        random = np.random.default_rng((SEED, self.day))
        count = random.poisson(random.gamma(rps / (BURST - 1)) * (BURST - 1))
        arrival_s = np.sort(np.repeat(np.arange(DAY_S), count) + random.random(count.sum()))
        of = random.integers(0, len(lengths), len(arrival_s))
        return Trace(arrival_s, lengths.isl_tokens[of], lengths.osl_tokens[of])


@dataclass(frozen=True, slots=True)
class Recording:
    """A file, `scale` times its load, and what is promised. `period_s`: what it comes round after. `rotated`: by this share of the period (0..1) it
    begins later, and what falls off its end comes first. `then`: what follows it. `drawn`: its arrivals are drawn, only lengths are the file's."""

    name: str
    path: str
    scale: float
    promise: Promise
    period_s: float = DAY_S
    rotated: float = 0.0
    then: Recording | None = None
    drawn: Rates | None = None

    def trace(self) -> Trace:
        recorded = read_trace(Path(self.path))
        if self.drawn is not None:
            recorded = self.drawn.trace(recorded)
        if self.rotated:
            recorded = _sorted((recorded.arrival_s + self.rotated * self.period_s) % self.period_s, recorded)
        trace = recorded.scaled(self.scale, seed=SEED) if self.scale != 1 else recorded
        if self.then is None:
            return trace
        later = self.then.trace()
        both = [np.concatenate(pair) for pair in ((trace.isl_tokens, later.isl_tokens), (trace.osl_tokens, later.osl_tokens))]
        arrival_s = np.concatenate([trace.arrival_s, later.arrival_s + self.period_s])
        order = np.argsort(arrival_s, kind="stable")  # the last copies of the first day are jittered into the second
        return Trace(arrival_s[order], both[0][order], both[1][order])

    @property
    def lengths(self) -> str:
        """The name of the recording that its lengths are of."""
        return Path(self.path).name.partition(".")[0]

    def times(self, factor: float) -> Recording:
        return replace(self, scale=self.scale * factor)

    def told(self) -> str:
        """As options of `sla-planner simulate`; of what is drawn, only in words."""
        if self.drawn is not None:
            return f"({self.name}: {self.drawn.column} of {Path(self.drawn.path).name}, day {self.drawn.day})"
        return f"--trace {'sample' if self.path == str(sample_trace_path()) else Path(self.path).name} --scale {self.scale:g}"


def _sorted(arrival_s: np.ndarray, of: Trace) -> Trace:
    order = np.argsort(arrival_s, kind="stable")
    return Trace(arrival_s[order], of.isl_tokens[order], of.osl_tokens[order])


PROMISES = {  # by name; `r1_a` has prompts that take 700 ms alone
    "usual": {"servegen_r1_a": Promise(1500, 20), "": Promise(500, 20)},
    "tight": {"servegen_r1_a": Promise(1000, 12), "": Promise(200, 12)},
    "loose": {"servegen_r1_a": Promise(5000, 50), "": Promise(2000, 50)},
}
KNOWN = (("servegen_mlarge_day1", 6.0), ("servegen_r1_a", 4.0), ("servegen_msmall_day2", 6.0))  # file, scale


def promised(words: str, recording: str) -> Promise:
    """`words`: a name out of `PROMISES`, or TTFT/ITL. Raises ValueError for neither."""
    if words in PROMISES:
        return PROMISES[words].get(recording, PROMISES[words][""])
    ttft_ms, itl_ms = words.split("/")
    return Promise(float(ttft_ms), float(itl_ms))


def excerpt(scale: float) -> Recording:
    path = sample_trace_path()
    return Recording("azure2023_conv_excerpt", str(path), scale, promised("usual", ""), read_trace(path).end_s)


def recordings(folder: Path) -> list[Recording]:
    """Those of `KNOWN` that are in `folder`. Raises SystemExit when there are none."""
    found = []
    for name, scale in KNOWN:
        paths = [path for suffix in (".csv.gz", ".csv") if (path := folder / f"{name}{suffix}").is_file()]
        if paths:
            found.append(Recording(name, str(paths[0].resolve()), scale, promised("usual", name)))
    if not found:
        raise SystemExit(f"{folder}: holds none of {', '.join(f'{name}.csv.gz' for name, _ in KNOWN)}")
    return found


WEEK = "servegen_rates_week1.csv.gz"  # recorded rates
HELD_OUT = (  # its column, day, mean requests/s, whose lengths
    ("m_large", 1, 39.0, "servegen_mlarge_day1"),
    ("m_large", 4, 80.0, "servegen_mlarge_day1"),
    ("m_mid", 3, 39.0, "servegen_mlarge_day1"),
    ("m_mid", 2, 20.0, "servegen_r1_a"),
    ("m_small", 4, 37.0, "servegen_msmall_day2"),
    ("m_small", 6, 30.0, "servegen_msmall_day2"),
)


def held_out(folder: Path) -> list[Recording]:
    """Days that the planner was never tuned on. Raises SystemExit where the rates or the lengths are missing."""
    known = {recording.name: recording for recording in recordings(folder)}
    if not (folder / WEEK).is_file() or any(lengths not in known for *_, lengths in HELD_OUT):
        raise SystemExit(f"{folder}: {WEEK} and {', '.join(sorted({lengths for *_, lengths in HELD_OUT}))} are needed")
    return [
        replace(known[lengths], name=f"{column}_day{day + 1}", scale=1.0, drawn=Rates(str((folder / WEEK).resolve()), column, day, rps))
        for column, day, rps, lengths in HELD_OUT
    ]
