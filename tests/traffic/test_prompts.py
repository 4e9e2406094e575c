import asyncio

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sla_planner.errors import EngineError
from sla_planner.traffic.prompts import TextLength, calibrate, length_slack, random_ids, random_words


class Tokenizer:
    """tokens = template + per_word * words, rounded; remembers what it was asked."""

    def __init__(self, per_word=1.0, template=0):
        self.per_word, self.template = per_word, template
        self.asked = []

    async def __call__(self, words):
        self.asked.append(words)
        return self.tokens(words)

    def tokens(self, words):
        return self.template + round(self.per_word * words)


def learnt(tokenizer, isl_tokens):
    return asyncio.run(calibrate(tokenizer, isl_tokens))


@given(per_word=st.floats(0.3, 4.0), template=st.integers(0, 100), isl_tokens=st.integers(400, 100_000))
def test_a_few_counts_make_the_length_exact(per_word, template, isl_tokens):
    tokenizer = Tokenizer(per_word, template)
    words = learnt(tokenizer, isl_tokens).words(isl_tokens)
    assert abs(tokenizer.tokens(words) - isl_tokens) <= max(1, 0.005 * isl_tokens, per_word)
    assert len(tokenizer.asked) <= 5
    assert max(map(tokenizer.tokens, tokenizer.asked)) <= 1.02 * isl_tokens + 4  # never too long for the engine on the way


def test_counts_by_hand():
    # 125 words: 213 tokens, 1.704 a word, so 587 words: 906. The line through both is 25.5 + 1.5 a word: 650 words, 1000 tokens.
    tokenizer = Tokenizer(1.5, 25)
    length = learnt(tokenizer, 1000)
    assert tokenizer.asked == [125, 587, 650]
    assert length.words(1000) == 650
    assert abs(length.words(2000) - 1975 / 1.5) < 2  # the line holds elsewhere


@pytest.mark.parametrize("isl_tokens", [1, 2, 3, 7, 12])
def test_tiny_prompts(isl_tokens):
    tokenizer = Tokenizer(1.0, 0)
    assert learnt(tokenizer, isl_tokens).words(isl_tokens) == isl_tokens


def test_a_prompt_shorter_than_the_template_cannot_be_had():
    with pytest.raises(EngineError, match=r"no prompt of 20 tokens can be sent: one of . words has 3. by the server's count"):
        learnt(Tokenizer(1.0, 30), 20)


def test_a_server_without_a_count():
    async def none(words):
        return None

    with pytest.raises(EngineError, match=r"no usage\.prompt_tokens"):
        asyncio.run(calibrate(none, 100))


def test_a_count_that_does_not_grow():
    with pytest.raises(EngineError, match="the server counted 9 prompt tokens for 12 words and 9 for 133"):
        learnt(Tokenizer(0.0, 9), 100)


def test_a_count_without_reason():
    counts = iter([100, 150, 90, 400, 130, 300, 5, 700])

    async def unruly(words):
        return next(counts)

    with pytest.raises(EngineError):
        asyncio.run(calibrate(unruly, 1000))


def test_length_before_calibration():
    assert TextLength().words(40) == 40
    assert TextLength(2.0, 10.0).words(50) == 20
    assert TextLength(2.0, 10.0).words(5) == 1
    assert (length_slack(100), length_slack(1000)) == (1.0, 5.0)


def test_prompts_have_their_length_and_never_come_again():
    generator = np.random.default_rng(0)
    prompts = [random_words(100, generator).decode().split(" ") for _ in range(20)]
    assert {len(prompt) for prompt in prompts} == {100}
    assert len({tuple(prompt[:8]) for prompt in prompts}) == 20  # a prefix cache finds nothing, not even the first block
    assert len(random_ids(100, generator).split(b",")) == 100
    assert (random_words(1, generator).count(b" "), random_ids(1, generator).count(b",")) == (0, 0)


def test_every_round_of_words_is_the_whole_table():
    words = random_words(200, np.random.default_rng(0)).split(b" ")
    table = sorted(set(words))
    rounds = [words[start : start + len(table)] for start in range(0, 200 - len(table), len(table))]
    assert len(rounds) >= 4
    assert all(sorted(each) == table for each in rounds)
    assert rounds[0] != rounds[1]
