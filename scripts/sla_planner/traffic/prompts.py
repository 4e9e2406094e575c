"""How a prompt of an asked length reaches an engine, and how its length is made exact without the engine's tokenizer.

Every prompt is random, so that no prefix cache answers in place of prefill. Token ids are as many tokens as there are ids. Words are not, so their
number follows a line that is learnt from the server's own count (`usage.prompt_tokens`), by the secant method:

    tokens = offset_tokens + tokens_per_word * words          the offset is a start token or a chat template

Words are drawn in rounds, each round the whole table in a random order: words differ in tokens, but rounds do not, so that what varies between two
prompts of one length is the last, incomplete round at most.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import numpy as np

from sla_planner.errors import EngineError

# Entries of equal width: a prompt is one table look-up. Token ids from 1000 on are plain text in common tokenizers; small ones end below 4000.
_TOKEN_IDS = np.array([f"{token}," for token in range(1000, 4000)], dtype="S5")
_WORDS = np.frombuffer(
    b"time year work life hand part case week home team room book word city area head side kind tree road "
    b"fish door wind boat farm lake song bird rain snow bank desk gold iron king leaf milk moon park rock ",
    dtype="S5",
)

LENGTH_TOLERANCE = 0.005
WORDS_OFF_TOKENS, WORDS_OFF_SHARE = 5, 0.02  # a prompt of words may be this far off: it is then as long as the server counted
_FIRST_SHARE = 8  # the first guess is this many times too short: a server must not refuse it as too long
_MOST_COUNTS = 8


@dataclass(frozen=True, slots=True)
class TextLength:
    """How many tokens a text of so many words has, in the server's count. Not calibrated: a token per word."""

    tokens_per_word: float = 1.0
    offset_tokens: float = 0.0

    def words(self, isl_tokens: int) -> int:
        """Words of a prompt of `isl_tokens`; at least 1."""
        return max(round((isl_tokens - self.offset_tokens) / self.tokens_per_word), 1)


A_TOKEN_PER_WORD = TextLength()


def random_ids(count: int, generator: np.random.Generator) -> bytes:
    """`count` token ids: `1034,2211,...`."""
    return _TOKEN_IDS[generator.integers(len(_TOKEN_IDS), size=count)].tobytes()[:-1]


def random_words(count: int, generator: np.random.Generator) -> bytes:
    """`count` words with a space between."""
    rounds = np.tile(_WORDS, (-(-count // len(_WORDS)), 1))
    return generator.permuted(rounds, axis=1).ravel()[:count].tobytes()[:-1]


def length_slack(isl_tokens: int) -> float:
    """By how many tokens a calibrated prompt may differ from `isl_tokens`."""
    return max(1.0, LENGTH_TOLERANCE * isl_tokens)


async def calibrate(count: Callable[[int], Awaitable[int | None]], isl_tokens: int) -> TextLength:
    """The line that gives prompts of `isl_tokens` within `length_slack`, and others near it. `count` sends that many words and returns the server's
    count, None when it reports none.

    Raises `EngineError`: no count, one that does not grow with the words, or `isl_tokens` that cannot be had (less than the chat template alone).
    """
    words = max(isl_tokens // _FIRST_SHARE, 1)
    seen: dict[int, int] = {}
    length = TextLength()
    for _ in range(_MOST_COUNTS):
        tokens = await count(words)
        if tokens is None:
            raise EngineError(
                "the server reports no usage.prompt_tokens, so that the length of a text prompt is unknown",
                hint="let it include usage, or measure an endpoint that takes token ids",
            )
        seen[words] = tokens
        length = _line(seen, words)
        if len(seen) > 1 and abs(tokens - isl_tokens) <= length_slack(isl_tokens):
            return length
        if isl_tokens < length.offset_tokens + length.tokens_per_word * 0.5:
            raise EngineError(
                f"no prompt of {isl_tokens} tokens can be sent: one of {words} words has {tokens} by the server's count", hint="choose a longer ISL"
            )
        nearest = length.words(isl_tokens)
        if len(seen) == 1:
            nearest += nearest in seen  # two counts make a line
        elif nearest in seen and abs(seen[nearest] - isl_tokens) <= length.tokens_per_word:
            return length  # words of several tokens: none comes nearer
        words = nearest
    if min(abs(tokens - isl_tokens) for tokens in seen.values()) <= max(WORDS_OFF_TOKENS, WORDS_OFF_SHARE * isl_tokens):
        return length  # the last words differ in tokens from prompt to prompt
    told = ", ".join(f"{tokens} for {words} words" for words, tokens in sorted(seen.items()))
    raise EngineError(f"the server's prompt tokens do not follow the words: {told}", hint=f"no prompt of {isl_tokens} tokens could be made")


def _line(seen: dict[int, int], latest: int) -> TextLength:
    """Through the latest count, and the farthest from it."""
    farthest = max(seen, key=lambda words: abs(words - latest))
    if farthest == latest:
        # The first one alone. Its offset is unknown; taking it for zero makes words long, and the next prompt rather too short than too long.
        return TextLength(max(seen[latest], 1) / latest, 0.0)
    slope = (seen[latest] - seen[farthest]) / (latest - farthest)
    if slope <= 0:
        raise EngineError(
            f"the server counted {seen[farthest]} prompt tokens for {farthest} words and {seen[latest]} for {latest}",
            hint="its usage does not count the prompt; measure another endpoint",
        )
    return TextLength(slope, seen[latest] - slope * latest)
