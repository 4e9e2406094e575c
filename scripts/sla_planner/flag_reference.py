"""Writes the flag reference of every stage whose settings are a `Config` model: `python -m sla_planner.flag_reference jobs`."""

from __future__ import annotations

import sys
from pathlib import Path

from sla_planner.atomic import write_text
from sla_planner.config import ENV_PREFIX, Config, Entry, entries, section_of
from sla_planner.planner_config import PlannerConfig
from sla_planner.preflight_config import PreflightConfig
from sla_planner.requests_config import RequestsConfig
from sla_planner.simulate_config import SimulateConfig
from sla_planner.sweep_config import SweepConfig
from sla_planner.volume_config import DownloadConfig, InjectConfig

STAGES: dict[str, type[Config]] = {
    "planner": PlannerConfig,
    "profile-sweep": SweepConfig,
    "inject-config": InjectConfig,
    "download-results": DownloadConfig,
    "preflight": PreflightConfig,
    "reconcile-requests": RequestsConfig,
    "simulate": SimulateConfig,
}

_HEAD = f"""# Flags of `sla-planner {{stage}}`

<!-- Written by `make docs` from the settings' declarations; edit those. -->

Every setting can come from a YAML file (`--config FILE` or `{ENV_PREFIX}CONFIG`), from an environment variable, or from a flag, in rising priority.
The key in the file is the flag without its leading dashes, with `-` or `_`. An empty environment variable counts as not set.
"""

_SECTION = """
## Settings of each of the `{listed}`

In the file, `{listed}:` is a list with one mapping per entry. A key at the top level is the default of all entries; an environment variable or a flag
overrides the key in all entries. Without a file, variables and flags describe a list of one.
"""

_TABLE = """
| flag | environment | default | allowed | meaning |
|---|---|---|---|---|
"""


def reference(stage: str, model: type[Config]) -> str:
    """The reference of one stage as Markdown."""
    text = _HEAD.format(stage=stage) + _TABLE + _rows(model)
    if section := section_of(model):
        text += _SECTION.format(listed=section[0]) + _TABLE + _rows(section[1])
    return text


def _rows(model: type[Config]) -> str:
    return "".join(_row(entry) for entry in entries(model).values())


def _row(entry: Entry) -> str:
    flags = (*entry.flags, entry.off_flag) if entry.switch else entry.flags
    cells = [_code(flags), _code(entry.variables), entry.default_text or "-", entry.allowed, entry.setting.help]
    return f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |\n"


def _code(words: tuple[str, ...]) -> str:
    return ", ".join(f"`{word}`" for word in words)


if __name__ == "__main__":
    for name, settings in STAGES.items():
        write_text(Path(sys.argv[1]) / name / "flags.md", reference(name, settings))
