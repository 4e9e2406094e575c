"""What carries a prompt. A module of its own, because settings name it and must not load what makes prompts."""

from __future__ import annotations

from enum import StrEnum


class PromptForm(StrEnum):
    """What carries the prompt."""

    IDS = "ids"  # token ids to /v1/completions: exact
    TEXT = "text"  # words to /v1/completions, their number corrected by the server's own count
    CHAT = "chat"  # words to /v1/chat/completions, likewise
