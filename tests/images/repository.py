"""The images as the repository describes them: folders, the stages that the README says each carries, and the programs beside them."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "images"


def images() -> list[str]:
    return sorted(file.parent.name for file in FOLDER.glob("*/Dockerfile"))


def stages_of() -> dict[str, list[str]]:
    """As the table in the README says."""
    rows = re.findall(r"^\| `([a-z-]+)` \| ([a-z, `-]+) \|", (FOLDER / "README.md").read_text(), re.MULTILINE)
    return {image: re.findall(r"`([a-z-]+)`", stages) for image, stages in rows}


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"images_{name}", FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module
