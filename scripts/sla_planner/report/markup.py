"""What every page shares: templates that escape what comes from outside, pictures inside the file, numbers that stay with their unit."""

from __future__ import annotations

import base64
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


def render(template: str, **content: Any) -> str:
    """`template` of `report/templates`; a name that it uses and `content` lacks is an error."""
    environment = Environment(loader=PackageLoader("sla_planner", "report/templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    return environment.get_template(template).render(**content)


def unbroken(text: str) -> str:
    """A number and its unit stay on one line."""
    return text.replace(" ms", "\u00a0ms").replace(" %", "\u00a0%")


def inline_png(png: bytes) -> str:
    """`png` as the source of an image."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")
