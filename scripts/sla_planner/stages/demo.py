"""`demo`: an engine is profiled, and the planner keeps a promise on recorded traffic with it, on this machine, in about a minute and a half.

After the sweep, three processes, as in a cluster: `engine-sim` (the engines), `planner` (what decides), and this one, which sends the traffic and
shows what happens. They meet where real ones meet: over HTTP, `/metrics` and a virtual target. Only the engine behind the HTTP port is simulated.
"""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.option(
    "--output-dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("demo-output"),
    show_default=True,
    help="Folder for report.html, the pictures and the logs.",
)
@click.option("--seed", type=click.IntRange(0), default=2, show_default=True, help="Of which recorded requests are sent and of prompts.")
@click.option("--sweep/--no-sweep", default=True, show_default=True, help="Profile the engine first, or take the profile of an earlier demo.")
def command(output_dir: Path, seed: int, sweep: bool) -> None:
    """Watch an engine being profiled and the planner keep a TTFT and an ITL promise with it, on recorded LLM traffic: no GPU, cluster or Prometheus.

    Exit code 0 only if workers went up and down and the promise was kept, 3 if not; 75 after Ctrl-C. Nothing is left running.
    """
    from sla_planner.stages.demo_run import run

    run(output_dir, seed, sweep=sweep)
