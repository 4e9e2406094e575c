"""`engine-sim`: an OpenAI-compatible engine without a GPU, with the latencies of a profile."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from sla_planner.cluster.virtual_protocol import DEFAULT_NAMESPACE

FAULT_EXAMPLE = """as POST /sim/faults takes it: {"kind": "crash", "role": "decode", "after_s": 30}"""
FAULT_KINDS = "Kinds: hang, crash, slow (of a worker), metrics-gone, errors, short, exit (of the engine)"
PLACES = "http://HOST:PORT[,...]"

_WITH_WORKERS = ("agg", "disagg", "prefill", "decode")
# Flags that do not mean something in every mode.
_MODES_OF = {
    **dict.fromkeys(("prefill_tp", "decode_tp", "prefill_workers", "decode_workers", "virtual_target", "namespace"), ("disagg",)),
    **dict.fromkeys(("prefill_workers_at", "decode_workers_at"), ("frontend",)),
    **dict.fromkeys(("profile", "tp", "startup_s", "startup_jitter_s", "max_batched_tokens", "max_sequences"), _WITH_WORKERS),
    **dict.fromkeys(("reported_kv_tokens", "ranks", "noise", "model_error", "time_scale"), _WITH_WORKERS),
    "prompts": ("agg", "disagg", "frontend"),
}


@click.command("engine-sim")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 in a pod.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0 = any free port.")
@click.option("--profile", type=click.Path(path_type=Path), help="Folder of profiling results.  [default: the sample that ships with the package]")
@click.option("--model", default="simulated", show_default=True, help="Name of the served model.")
@click.option(
    "--mode",
    type=click.Choice(["agg", "disagg", "prefill", "decode", "frontend"]),
    default="disagg",
    show_default=True,
    help="agg: one worker for both phases. disagg: a pool for each. prefill, decode, frontend: one of them, the others are processes elsewhere.",
)
@click.option("--tp", type=click.IntRange(1), help="Take this tensor-parallel size of the profile.  [default: the ones the profile selected]")
@click.option("--prefill-tp", type=click.IntRange(1), help="The same of prefill workers alone, with --mode disagg.")
@click.option("--decode-tp", type=click.IntRange(1), help="The same of decode workers alone, with --mode disagg.")
@click.option("--prefill-workers", type=click.IntRange(0), default=1, show_default=True, help="At the start, with --mode disagg.")
@click.option("--decode-workers", type=click.IntRange(0), default=1, show_default=True, help="At the start, with --mode disagg.")
@click.option(
    "--prefill-workers-at", metavar=PLACES, help="With --mode frontend: every address of these hosts is a prefill worker, as of a headless Service."
)
@click.option("--decode-workers-at", metavar=PLACES, help="The same of decode workers.")
@click.option("--virtual-target", metavar="URL", help="Follow the worker counts of this virtual target: file:PATH or etcd://HOST:PORT.")
@click.option("--namespace", default=DEFAULT_NAMESPACE, show_default=True, help="Namespace of the virtual target.")
@click.option(
    "--startup-s",
    type=click.FloatRange(0),
    default=0.0,
    show_default=True,
    help="Start-up time of a worker that is added, or started with --mode prefill or decode.",
)
@click.option("--startup-jitter-s", type=click.FloatRange(0), default=0.0, show_default=True, help="Up to this much longer, at random.")
@click.option("--max-batched-tokens", type=click.IntRange(1), help="Most tokens of a prefill batch.  [default: 8192]")
@click.option("--max-sequences", type=click.IntRange(1), help="Most requests of a batch.  [default: 1024]")
@click.option("--reported-kv-tokens", type=click.IntRange(1), help="State this KV capacity on /metrics, whatever it is.  [default: the true one]")
@click.option("--ranks", type=click.IntRange(1), default=1, show_default=True, help="Data-parallel ranks that state a share of the KV capacity each.")
@click.option(
    "--prompts",
    type=click.Choice(["ids", "text"]),
    default="ids",
    show_default=True,
    help="ids: token ids count exactly, and a word of a text is a token. text: token ids are refused, texts are counted as a tokenizer would.",
)
@click.option("--noise", type=click.FloatRange(0), default=0.0, show_default=True, help="Spread of every step: sigma of a log-normal factor.")
@click.option("--model-error", type=float, default=0.0, show_default=True, help="Percent by which the engine is slower than its profile.")
@click.option("--time-scale", type=float, default=1.0, show_default=True, help="Run this many times faster than the profile, start-up included.")
@click.option(
    "--seed", type=int, default=0, show_default=True, help="Of noise, jitter and output lengths. In a pool of pods the pod's name adds to it."
)
@click.option(
    "--drain-s",
    type=click.FloatRange(0),
    help="At SIGTERM, wait this long for running requests.  [default: 25 with prefill, decode, frontend; else 0.5]",
)
@click.option("--fault", "faults", metavar="JSON", multiple=True, help=f"Fault in advance, {FAULT_EXAMPLE}. {FAULT_KINDS}. Repeatable.")
@click.option("--log-format", type=click.Choice(["auto", "human", "json"]), default="auto", show_default=True, help="auto: human on a terminal.")
def command(**flags: Any) -> None:
    """Serve an OpenAI-compatible engine that needs no GPU: latencies are those of a profile, tokens are filler.

    POST /v1/chat/completions and /v1/completions, GET /v1/models, /health, /metrics and /sim/state, POST /sim/faults. SIGTERM ends it.

    One engine as a profile sweep measures it: --mode agg with --tp. Workers that can be scaled one by one: --mode prefill and --mode decode, behind
    --mode frontend, which finds them by name.
    """
    from sla_planner import logs
    from sla_planner.engines.simulated.api import Prompts
    from sla_planner.engines.simulated.faults import parse_fault
    from sla_planner.engines.simulated.serving import DRAIN_S, POD_DRAIN_S, ServeOptions, serve

    logs.setup(flags["log_format"])
    mode = flags["mode"]
    _check_mode(mode)
    target = _target(flags["virtual_target"], flags["namespace"]) if flags["virtual_target"] else None
    drain_s = DRAIN_S if mode in ("agg", "disagg") else POD_DRAIN_S
    options = ServeOptions(
        fleet=_elsewhere_options(flags) if mode == "frontend" else _fleet_options(flags),
        model=flags["model"],
        host=flags["host"],
        port=flags["port"],
        faults=tuple(parse_fault(text) for text in flags["faults"]),
        target=target,
        prompts=Prompts(flags["prompts"]),
        drain_s=drain_s if flags["drain_s"] is None else flags["drain_s"],
    )
    workers = {
        "disagg": f"{flags['prefill_workers']} prefill, {flags['decode_workers']} decode",
        "frontend": f"prefill at {flags['prefill_workers_at']}, decode at {flags['decode_workers_at']}",
    }.get(mode, "1 worker")
    serve(options, announce=lambda url: click.echo(f"engine-sim ready on {url} (model {options.model}, {mode}: {workers})"))


def _check_mode(mode: str) -> None:
    from sla_planner.errors import UsageError

    context = click.get_current_context()
    for name, modes in _MODES_OF.items():
        if mode not in modes and context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise UsageError(
                f"--{name.replace('_', '-')} means nothing with --mode {mode}", hint=f"leave it out, or take --mode {' or '.join(modes)}"
            )


def _elsewhere_options(flags: dict[str, Any]) -> Any:
    from sla_planner.engines.simulated.elsewhere import ElsewhereOptions
    from sla_planner.engines.simulated.places import EXAMPLE, parse_places
    from sla_planner.errors import UsageError

    for role in ("prefill", "decode"):
        if not flags[f"{role}_workers_at"]:
            raise UsageError(f"a frontend needs --{role}-workers-at", hint=EXAMPLE)
    return ElsewhereOptions(parse_places(flags["prefill_workers_at"]), parse_places(flags["decode_workers_at"]), flags["seed"])


def _fleet_options(flags: dict[str, Any]) -> Any:
    from sla_planner.engines.simulated.options import FleetOptions, Mode
    from sla_planner.model.batching import MAX_BATCHED_TOKENS, MAX_SEQUENCES, BatchingLaw

    mode = Mode(flags["mode"])
    # A worker of one phase asks the profile for a size of that phase alone.
    prefill_tp = None if mode is Mode.DECODE else flags["prefill_tp"] or flags["tp"]
    decode_tp = None if mode is Mode.PREFILL else flags["decode_tp"] or flags["tp"]
    engine = _engine(flags["profile"], prefill_tp, decode_tp)
    return FleetOptions(
        law=BatchingLaw(engine, flags["max_batched_tokens"] or MAX_BATCHED_TOKENS, flags["max_sequences"] or MAX_SEQUENCES),
        mode=mode,
        prefill_workers=flags["prefill_workers"],
        decode_workers=flags["decode_workers"],
        startup_s=flags["startup_s"],
        startup_jitter_s=flags["startup_jitter_s"],
        noise=flags["noise"],
        model_error_percent=flags["model_error"],
        time_scale=flags["time_scale"],
        seed=_own_seed(flags["seed"]) if mode.worker_role else flags["seed"],
        reported_kv_tokens=flags["reported_kv_tokens"],
        ranks=flags["ranks"],
    )


def _own_seed(seed: int) -> int:
    """The pods of a pool have the same flags, and must not have the same noise."""
    import socket
    import zlib

    return zlib.crc32(f"{socket.gethostname()}/{seed}".encode())


def _target(url: str, namespace: str) -> Any:
    from sla_planner.cluster.virtual import open_virtual_client

    return open_virtual_client(url, namespace=namespace)


def _engine(profile_dir: Path | None, prefill_tp: int | None, decode_tp: int | None) -> Any:
    """None: the size that the profile selected."""
    from dataclasses import replace

    from sla_planner.model.engine import engine_of
    from sla_planner.store.profile_files import read_profile, sample_profile_dir

    profile = read_profile(profile_dir or sample_profile_dir())
    if prefill_tp is not None:
        profile = replace(profile, selected_prefill=_measured(profile.prefill, prefill_tp, "prefill"))
    if decode_tp is not None:
        profile = replace(profile, selected_decode=_measured(profile.decode, decode_tp, "decode"))
    return engine_of(profile)


def _measured(measurements: Sequence[Any], tp: int, phase: str) -> Any:
    """The mapping of this tensor-parallel size."""
    from sla_planner.errors import UsageError
    from sla_planner.model.profile import ParallelMapping

    mapping = ParallelMapping(tp=tp)
    measured = [each.mapping for each in measurements]
    if mapping not in measured:
        raise UsageError(f"the profile has no TP{tp} for {phase}", hint=f"it was measured at: {', '.join(sorted(each.label for each in measured))}")
    return mapping
