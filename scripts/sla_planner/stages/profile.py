"""`profile`: look at a profile before a planner believes it."""

from __future__ import annotations

import click


@click.group(no_args_is_help=False)
def command() -> None:
    """Look at the profile of an engine: ours (profile.json), or the results of Dynamo's profiler."""


@command.command()
@click.argument("place", metavar="DIR")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of tables.")
def show(place: str, as_json: bool) -> None:
    """Print every point of the profile in DIR.

    With it: how well the fitted laws describe the points, and which points are not trusted and why.

    DIR is the folder that a sweep wrote to; 'sample' is the profile that ships with this program.
    """
    import json

    from sla_planner.report.profile_table import profile_json, profile_text
    from sla_planner.store.profile_files import read_profile

    profile = read_profile(place)
    click.echo(json.dumps(profile_json(profile, place)) if as_json else profile_text(profile, place))
