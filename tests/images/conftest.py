"""The programs that build the images, as modules."""

from __future__ import annotations

from types import ModuleType

import pytest
from tests.images.repository import load


@pytest.fixture(scope="session")
def install() -> ModuleType:
    return load("install")


@pytest.fixture(scope="session")
def sizes() -> ModuleType:
    return load("sizes")
