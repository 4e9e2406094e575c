"""`load-test`: send recorded or made-up traffic to a server and measure what its users would see."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sla_planner.config_words import masked
from sla_planner.model.sla import Sla

if TYPE_CHECKING:
    from sla_planner.traffic.client import Server
    from sla_planner.traffic.replay import Progress, Run
    from sla_planner.traffic.summary import Percentiles, Summary
    from sla_planner.traffic.trace import Trace

SCENARIOS = ("steady", "spike", "long-context")
SAMPLE = "sample"
TERMINAL_S, LOG_S = 0.5, 5.0  # between two progress lines
CLEAR_LINE = "\r\033[K"
SEEDS = 2**32
START_S = 3.0

log = logging.getLogger(__name__)


class _Finite(click.FloatRange):
    """A number in range that is neither NaN nor infinite."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


_ABOVE_ZERO = _Finite(0, min_open=True)
_SLA = Sla()


@click.command("load-test")
@click.option("--url", required=True, help="Address of an OpenAI-compatible server, e.g. http://127.0.0.1:8000")
@click.option("--model", help="Model to ask for.  [default: the first that the server lists]")
@click.option(
    "--endpoint",
    type=click.Choice(["completions", "chat"]),
    default="completions",
    show_default=True,
    help="completions sends token ids, so that the prompt length is exact; chat sends words, about one token each.",
)
@click.option(
    "--trace", metavar="FILE", help=f"Recorded traffic: .csv (arrival_s,isl,osl), .jsonl (Mooncake), or .gz of either; '{SAMPLE}' is a shipped one."
)
@click.option(
    "--scenario", type=click.Choice(SCENARIOS), help="Made-up traffic: 20 requests 3 s apart, 50 at once, or 5 long prompts.  [default: steady]"
)
@click.option("--start-s", type=_Finite(0), default=0.0, show_default=True, help="Begin at this second of the traffic.")
@click.option("--duration-s", type=_ABOVE_ZERO, help="Take this many seconds of it.  [default: all]")
@click.option(
    "--scale",
    type=_ABOVE_ZERO,
    default=1.0,
    show_default=True,
    help="This many times the load: requests are copied and jittered by up to 15 s, or thinned.",
)
@click.option("--speed-up", type=_ABOVE_ZERO, default=1.0, show_default=True, help="Play it this many times as fast, which makes ramps steeper.")
@click.option("--ttft", "--ttft-target", "ttft", type=_ABOVE_ZERO, default=_SLA.ttft_ms, show_default=True, help="Promised TTFT, ms.")
@click.option("--itl", "--itl-target", "itl", type=_ABOVE_ZERO, default=_SLA.itl_ms, show_default=True, help="Promised ITL, ms: a request's mean.")
@click.option("--attainment", type=_Finite(0, 1, min_open=True), default=_SLA.attainment, show_default=True, help="Promised share of requests.")
@click.option("--timeout-s", type=_ABOVE_ZERO, default=120.0, show_default=True, help="Give a request up after this long.")
@click.option(
    "--seed",
    type=click.IntRange(0, SEEDS - 1),
    help="Of prompts, copies and jitter. The same seed sends the same prompts, which a server may have cached.  [default: a new one]",
)
@click.option("--json", "as_json", is_flag=True, help="Report as one JSON object.")
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="Write one JSON line per request to this file at the end.")
@click.option("--log-format", type=click.Choice(["human", "json"]), default="human", show_default=True)
def command(**flags: Any) -> None:
    """Send traffic to a server at its own pace, however slow the server is, and report TTFT, ITL and the share of requests inside the promise.

    The exit code is 0 also when the promise is missed: this stage measures. Ctrl-C or SIGTERM ends it with a report of what was sent and exit
    code 75; a server that does not answer is exit code 4, before anything is sent.
    """
    import asyncio
    import json
    import secrets

    from sla_planner.errors import InterruptedRun
    from sla_planner.logs import setup
    from sla_planner.traffic.summary import summarize

    setup(flags["log_format"])
    _check_output(flags["output"])
    seed = secrets.randbelow(SEEDS) if flags["seed"] is None else flags["seed"]
    traffic, trace = _traffic(flags, seed)
    server, run = asyncio.run(_measure(flags, trace, seed))
    summary = summarize(run, Sla(flags["ttft"], flags["itl"], flags["attainment"]))
    setting = {"url": masked(server.url), "model": server.model, "endpoint": str(server.endpoint), "traffic": traffic, "seed": seed}
    click.echo(json.dumps(setting | summary.to_json()) if flags["as_json"] else _told(setting, summary))
    if flags["output"]:
        _write(flags["output"], run)
    if run.stopped:
        raise InterruptedRun(f"stopped after {len(run.records)} of {run.requests} requests", hint="the report covers these")


def _check_output(path: Path | None) -> None:
    """Before a long run, not after it."""
    import os

    from sla_planner.errors import UsageError

    if path is not None and not os.access(path.resolve().parent, os.W_OK):
        raise UsageError(f"cannot write {path}: no directory to write in", hint="create it, or choose another path")


def _traffic(flags: dict[str, Any], seed: int) -> tuple[str, Trace]:
    """What is sent, in words and as a trace."""
    from sla_planner.errors import UsageError
    from sla_planner.traffic.patterns import SCENARIOS as PATTERNS
    from sla_planner.traffic.trace import read_trace, sample_trace_path

    file, scenario = flags["trace"], flags["scenario"]
    if file and scenario:
        raise UsageError("--trace and --scenario are both given", hint="choose one")
    if file:
        path = sample_trace_path() if file == SAMPLE else Path(file)
        if not path.is_file():
            raise UsageError(f"--trace: there is no file {file}", hint=f"give one, or {SAMPLE}, the trace that ships with the program")
        trace, words = read_trace(path), [file]
    else:
        scenario = scenario or SCENARIOS[0]
        trace, words = PATTERNS[scenario](), [scenario]
    end_s = math.inf if flags["duration_s"] is None else flags["start_s"] + flags["duration_s"]
    if flags["start_s"] or flags["duration_s"]:
        words.append(f"seconds {flags['start_s']:g} to {min(end_s, trace.end_s):g}")
        trace = trace.window(flags["start_s"], end_s)
    if flags["scale"] != 1:
        words.append(f"{flags['scale']:g} times the load")
    if flags["speed_up"] != 1:
        words.append(f"{flags['speed_up']:g} times as fast")
    return ", ".join(words), trace.scaled(flags["scale"], seed=seed).sped_up(flags["speed_up"])


async def _measure(flags: dict[str, Any], trace: Trace, seed: int) -> tuple[Server, Run]:
    """Send it all. SIGINT and SIGTERM end the run with what it has."""
    import asyncio
    import signal
    import sys

    from sla_planner.traffic.client import Endpoint, Server, StreamingClient, allow_open_connections
    from sla_planner.traffic.replay import Watch, replay

    model = await _model(flags["url"], flags["model"])
    server = Server(flags["url"], model, Endpoint(flags["endpoint"]), flags["timeout_s"])
    allow_open_connections()
    terminal = flags["log_format"] == "human" and sys.stderr.isatty()
    watch = Watch(_on_terminal(trace) if terminal else _in_log(trace), TERMINAL_S if terminal else LOG_S)
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, watch.stop.set)
    log.info("Sending %s requests over %.0f s to %s (model %s)", f"{len(trace):,}", trace.end_s, masked(server.url), model)
    async with StreamingClient(server, seed=seed) as client:
        run = await replay(client, trace, watch)
    if terminal:
        click.echo(CLEAR_LINE, nl=False, err=True)
    return server, run


async def _served(url: str) -> list[str]:
    """The models that the server lists. A server that was started in the same breath gets `START_S` to listen."""
    import asyncio
    import time

    from sla_planner.errors import UnreachableError
    from sla_planner.traffic.client import served_models

    deadline_s = time.monotonic() + START_S
    while True:
        try:
            return await served_models(url)
        except UnreachableError:
            if time.monotonic() > deadline_s:
                raise
            await asyncio.sleep(0.1)


async def _model(url: str, asked: str | None) -> str:
    from sla_planner.errors import UsageError

    served = await _served(url)  # also with --model: is anyone there?
    if asked and served and asked not in served:
        raise UsageError(f"{masked(url)} does not serve {asked!r}", hint=f"it serves {', '.join(served)}")
    if asked:
        return asked
    if not served:
        raise UsageError(f"{masked(url)} lists no model", hint="name one with --model")
    return served[0]


def _progress(trace: Trace, progress: Progress) -> str:
    from sla_planner.report.wording import clock

    waiting = progress.sent - progress.finished
    rest_s = max(trace.end_s - progress.elapsed_s, 0.0)
    left = f"about {clock(rest_s)} left to send" if progress.sent < progress.requests else "all sent"
    return f"{progress.sent:,} of {progress.requests:,} sent, {waiting:,} waiting, {progress.failed:,} failed; {left}"


def _on_terminal(trace: Trace) -> Callable[[Progress], None]:
    def show(progress: Progress) -> None:
        click.echo(CLEAR_LINE + _progress(trace, progress), nl=False, err=True)

    return show


def _in_log(trace: Trace) -> Callable[[Progress], None]:
    def show(progress: Progress) -> None:
        from dataclasses import asdict

        log.info(_progress(trace, progress), extra=asdict(progress))

    return show


def _write(path: Path, run: Run) -> None:
    import json
    from dataclasses import asdict

    from sla_planner.atomic import write_text

    write_text(path, "".join(json.dumps(asdict(record)) + "\n" for record in run.records))


def _told(setting: dict[str, Any], summary: Summary) -> str:
    """The report for people: the verdict first, then the numbers behind it."""
    from sla_planner.report.wording import promised_share, share_inside

    promise = summary.promise
    head = f"{setting['traffic']} against {setting['model']} at {setting['url']} ({setting['endpoint']}, seed {setting['seed']})"
    if not summary.sent:
        return f"{head}\nNo request was sent."
    kept = "kept" if summary.share(summary.inside) >= promise.attainment else "missed"
    if summary.unfinished:
        kept = f"not judged, {summary.unfinished:,} requests were cut off by the stop and count as outside"
    share = share_inside(summary.inside, summary.sent)
    verdict = (
        f"{share} of {summary.sent:,} requests inside TTFT {promise.ttft_ms:g} ms and ITL {promise.itl_ms:g} ms; "
        f"promised {promised_share(promise.attainment)}: {kept}"
    )
    offered = "all at once" if summary.offered_rps is None else f"{summary.offered_rps:,.2f} requests/s"
    failed = [f"{count:,} {kind}" for kind, count in summary.errors.items()] + ([f"{summary.unfinished:,} unfinished"] if summary.unfinished else [])
    rows = [
        (
            "Time inside",
            f"{summary.slices_inside:,} of {summary.slices:,} slices of {summary.slice_s:g} s had {promised_share(promise.attainment)} inside",
        ),
        ("Sent", f"{summary.sent:,} of {summary.requests:,} requests, {offered}"),
        ("Answered", f"{summary.completed:,}, {summary.completed_rps:,.2f} requests/s; last answer after {_duration(summary.wall_s)}"),
        ("Not answered", ", ".join(failed) or "none"),
        ("Tokens/s", f"{summary.prompt_tokens_per_s:,.0f} prompt, {summary.completion_tokens_per_s:,.0f} answer"),
        ("Client, p99", f"event loop {summary.client_lag_ms:.1f} ms late, requests sent {summary.send_delay_ms:.1f} ms late"),
    ]
    lines = [head, verdict, "", *_latency_table(summary), "", *(f"{name:<16}{value}" for name, value in rows)]
    return "\n".join([*lines, *(f"warning: {warning}" for warning in summary.warnings)])


def _duration(seconds: float) -> str:
    from sla_planner.report.wording import clock

    return f"{seconds:.1f} s" if seconds < 60 else f"{clock(seconds)} min"


def _latency_table(summary: Summary) -> list[str]:
    from dataclasses import astuple

    from sla_planner.report.wording import milliseconds, share_inside

    def row(name: str, percentiles: Percentiles | None, promised: str, inside: str) -> str:
        values = [milliseconds(value) for value in astuple(percentiles)] if percentiles else ["-"] * 5
        return f"{name:<16}" + "".join(f"{value:>12}" for value in (*values, promised, inside)).rstrip()

    promise: Sla = summary.promise
    return [
        " " * 16 + "".join(f"{title:>12}" for title in ("p50", "p90", "p95", "p99", "max", "promised", "inside")),
        row("TTFT", summary.ttft_ms, f"{promise.ttft_ms:g} ms", share_inside(summary.ttft_inside, summary.sent)),
        row("ITL", summary.itl_ms, f"{promise.itl_ms:g} ms", share_inside(summary.itl_inside, summary.sent)),
        row("Whole answer", summary.e2e_ms, "", ""),
    ]
