"""llama.cpp's own server with a tiny model: a real engine, started as users start theirs, by a command."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained for a context of 4096 tokens, or so it says."""
    path = tmp_path_factory.mktemp("model") / "tiny.gguf"
    subprocess.run([sys.executable, str(HERE / "tiny_gguf.py"), str(path)], check=True)
    return path


@pytest.fixture(scope="session")
def llamacpp_command(tiny_model: Path) -> Callable[..., str]:
    """The engine command for a sweep, with these options of serve.py."""

    def command(*options: object) -> str:
        return shlex.join([sys.executable, str(HERE / "serve.py"), str(tiny_model), "--port", "{port}", *map(str, options)])

    return command
