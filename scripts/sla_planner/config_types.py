"""Kinds of values that settings of several stages have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, Strict

from sla_planner.config import Rejected

SECONDS_BELOW_MS = 0.5  # nobody promises half a millisecond; somebody writes half a second


def _milliseconds(value: float) -> float:
    if 0 < value <= SECONDS_BELOW_MS:
        raise Rejected(f"{value:g} ms looks like seconds", hint=f"use {value * 1000:g} for {value:g} s")
    return value


def _not_empty(value: object) -> object:
    """An empty path would be the current folder: an unset variable of a shell, and nobody's wish."""
    if value == "":
        raise ValueError
    return value


def _http_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        valid = False
    if not valid or not url.isprintable() or " " in url:
        raise ValueError
    return url


Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Milliseconds = Annotated[float, AfterValidator(_milliseconds), Field(gt=0)]
AtLeastOne = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(gt=0, lt=1)]
LoosePath = Annotated[Path, Strict(False), BeforeValidator(_not_empty)]
HttpUrl = Annotated[str, AfterValidator(_http_url)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]

HTTP = "an http:// or https:// URL"
