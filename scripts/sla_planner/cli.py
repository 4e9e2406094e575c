"""The command `sla-planner`: a table of stages, each loaded only when it is called.

A stage `some-name` is the module `sla_planner.stages.some_name` with a click command called `command`. A stage raises; only this module turns errors
into the one line on stderr and the exit code that `errors.py` lists:

    PlannerError                  error: <message>; <hint>       its exit code
    wrong flag or unknown stage   error: <message>; <hint>       2
    Ctrl-C                        error: interrupted             75
    reader of stdout gone         nothing                        141 (as a process that SIGPIPE killed)

Anything else is a bug and keeps its traceback.
"""

from __future__ import annotations

import difflib
import importlib
import os
import select
import sys
from collections.abc import Sequence

import click

from sla_planner import __version__
from sla_planner.errors import InterruptedRun, PlannerError, UsageError
from sla_planner.termination import leave_word

PROGRAM = "sla-planner"

STAGES = {
    "planner": "set the number of prefill and decode workers, every interval",
    "profile-sweep": "measure an engine at every mapping, and pick the one that keeps the promise at the most throughput per GPU",
    "inject-config": "put the manifest that a sweep derives engines from onto its volume in the cluster",
    "download-results": "copy the results of a sweep from its volume in the cluster to this machine",
    "reconcile-requests": "bring deployment requests one step further: profiled, generated, deployed",
    "preflight": "look at an installation: what is wrong with it, why it matters, and the command that puts it right",
    "simulate": "what the planner, and other ways to scale, would have made of recorded traffic: the promise and the GPU-hours",
    "profile": "show a profile: its points, what is doubted of them, and the laws they follow",
    "engine-sim": "serve an OpenAI-compatible engine whose speed follows a profile",
    "load-test": "send recorded or synthetic traffic and measure TTFT and ITL",
    "render": "write the files that are generated per model or backend: graphs for Dynamo, and your own",
    "demo": "planner, simulated engines and recorded traffic on this machine",
}


class _Stages(click.Group):
    """Knows its commands by name; imports one only when it is called."""

    def list_commands(self, _ctx: click.Context) -> list[str]:
        return list(STAGES)

    def get_command(self, _ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in STAGES:
            return None
        command: click.Command = importlib.import_module(f"sla_planner.stages.{cmd_name.replace('-', '_')}").command
        command.name = cmd_name
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in STAGES:
            near = difflib.get_close_matches(args[0], STAGES, n=1)
            raise UsageError(f"unknown stage {args[0]!r}", hint=f"did you mean {near[0]}?" if near else f"stages: {', '.join(STAGES)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Stages"):
            formatter.write_dl(list(STAGES.items()))


@click.group(cls=_Stages, subcommand_metavar="STAGE [FLAGS]...")
@click.version_option(__version__, message="%(prog)s %(version)s")
def group() -> None:
    """Keeps a promised TTFT and ITL of an LLM deployment with the fewest GPU-hours.

    `sla-planner STAGE --help` lists the flags of a stage. Exit codes: 0 done, 2 usage or configuration, 3 SLA infeasible, 4 a dependency is
    unreachable (a retry may help), 75 interrupted with progress saved.
    """


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line and exit."""
    sys.exit(run(sys.argv[1:] if args is None else args))


def run(args: Sequence[str]) -> int:
    """Run one stage; returns the exit code. No arguments: the help."""
    # Our matrices are tiny. More threads than cores (a pod's CPU quota, a busy machine) have been seen to turn 50 ms of ARIMA into 5 s of spinning.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        with group.make_context(PROGRAM, list(args) or ["--help"]) as context:
            group.invoke(context)
        sys.stdout.flush()
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.ClickException as error:
        context_of = getattr(error, "ctx", None)
        return _fail(UsageError(error.format_message().rstrip("."), hint=f"see {context_of.command_path if context_of else PROGRAM} --help"))
    except PlannerError as error:
        return _fail(error)
    except (KeyboardInterrupt, click.Abort):
        return _fail(InterruptedRun("interrupted"))
    except BrokenPipeError:
        if not _stdout_is_gone():
            raise
        return 141
    return 0


def _fail(error: PlannerError) -> int:
    line = " ".join(str(error).splitlines())
    leave_word(line)
    click.echo(f"error: {line}", err=True)
    return error.exit_code


def _stdout_is_gone() -> bool:
    """Whether the broken pipe was our stdout; if so, what it still buffers goes nowhere, so that the interpreter's last flush is quiet."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    gone = any(events & (select.POLLERR | select.POLLHUP) for _, events in poll.poll(0))
    if gone:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return gone
