"""`render`: the files of the repository that are generated per model or backend, and a user's own."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("name", metavar="[TEMPLATE]", required=False)
@click.option("--backend", help="Engine that the file is for; the same as --set backend=...")
@click.option("--values", "files", metavar="FILE", multiple=True, help="YAML file with values; repeatable, later ones win.")
@click.option("--set", "settings", metavar="NAME=VALUE", multiple=True, help="One value, over those of files; repeatable.")
@click.option("--output", metavar="FILE", help="Where the text goes; - is stdout.  [default: -]")
@click.option("--check", is_flag=True, help="Write nothing: print what would change, and exit 1 if anything would.")
@click.option("--templates", default="templates", show_default=True, metavar="DIR", help="Folder of the templates.")
def command(
    name: str | None, backend: str | None, files: tuple[str, ...], settings: tuple[str, ...], output: str | None, check: bool, templates: str
) -> None:
    """Render TEMPLATE with values, or, without TEMPLATE, every committed file: those that templates/*/renders.yaml list.

    The values of a template are listed and explained in the values.yaml beside it.
    """
    from sla_planner.errors import UsageError

    folder = Path(templates)
    if name is not None:
        if check:
            raise UsageError("--check compares the committed files, not one template", hint=f"leave out {name}")
        chosen = (f"backend={backend}",) if backend is not None else ()
        _write_one(folder, name, files, (*settings, *chosen), output or "-")
    elif backend is not None or files or settings or output:
        raise UsageError("values and --output belong to one template, and none is named", hint="for example: sla-planner render disagg_planner")
    elif check:
        _check_all(folder)
    else:
        _write_all(folder)


def _write_one(folder: Path, name: str, files: tuple[str, ...], settings: tuple[str, ...], output: str) -> None:
    from sla_planner.atomic import write_text
    from sla_planner.errors import UsageError
    from sla_planner.rendering import Template

    template = Template(folder, name)
    values = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise UsageError(f"--set {setting}: no value", hint="write NAME=VALUE")
        values[key] = template.value(key, text)
    rendered = template.render(map(Path, files), values)
    _check_requests(rendered)
    if output == "-":
        click.echo(rendered, nl=False)
    else:
        write_text(output, rendered)


def _check_requests(rendered: str) -> None:
    """What the reconciler would refuse is told before somebody applies it."""
    import yaml

    from sla_planner.errors import UsageError
    from sla_planner.request.spec import Request

    for found in yaml.safe_load_all(rendered):
        if isinstance(found, dict) and found.get("kind") == "DynamoGraphDeploymentRequest":
            from sla_planner.stages.reconcile_requests_reading import allowed, reading

            read = reading({**found, "metadata": {"namespace": "default", **found["metadata"]}}, allowed())
            if not isinstance(read, Request):
                raise UsageError(f"these values make a request that is refused: {' | '.join(map(str, read))}")


def _write_all(folder: Path) -> None:
    from sla_planner.atomic import write_text
    from sla_planner.rendering import outputs

    rendered = outputs(folder)
    changed = [output for output in rendered if output.difference()]
    for output in changed:
        output.file.parent.mkdir(parents=True, exist_ok=True)
        write_text(output.file, output.text)
        click.echo(f"wrote {output.file}")
    click.echo(f"{len(rendered)} files, {len(changed)} changed")


def _check_all(folder: Path) -> None:
    from sla_planner.rendering import RENDERS, outputs, unlisted

    rendered = outputs(folder)
    differences = [difference for output in rendered if (difference := output.difference())]
    strangers = unlisted(rendered)
    for difference in differences:
        click.echo(difference)
    for file in strangers:
        click.echo(f"{file} is rendered, but listed in no {folder}/*/{RENDERS}: list it, or delete it")
    if differences or strangers:
        click.echo(f"{len(differences)} of {len(rendered)} files have drifted; to render them anew: sla-planner render", err=True)
        raise click.exceptions.Exit(1)
    click.echo(f"{len(rendered)} files are as rendered")
