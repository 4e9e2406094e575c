from __future__ import annotations

import json
import random

import pytest

from sla_planner.engines.simulated.api import ApiError, Call, Endpoint, Prompts, parse_call


def parse(endpoint: Endpoint = Endpoint.COMPLETIONS, prompts: Prompts = Prompts.IDS, **body: object) -> Call:
    return parse_call(endpoint, json.dumps(body).encode(), model="m", max_kv_tokens=1000, prompts=prompts)


@pytest.mark.parametrize(
    ("prompt", "isl_tokens"),
    [("a", 1), ("three  short\nwords", 3), ([7, 8, 9, 10], 4), (["one prompt"], 2), ([[1, 2, 3]], 3)],
)
def test_isl_of_a_prompt(prompt, isl_tokens):
    assert parse(prompt=prompt).isl_tokens == isl_tokens


def test_isl_of_a_chat_is_that_of_its_texts():
    parts = [{"type": "text", "text": "two words"}, {"type": "text", "text": "one"}]
    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": parts}, {"role": "assistant", "content": None}]
    assert parse(Endpoint.CHAT, messages=messages).isl_tokens == 5


def test_isl_of_a_text_as_a_tokenizer_would_count():
    # A start token, a token per word, one more for every r; a chat template of 3 tokens, and 4 per message.
    assert parse(prompts=Prompts.TEXT, prompt="three words, no more").isl_tokens == 1 + 4 + 3
    messages = [{"role": "user", "content": "a bird"}, {"role": "assistant", "content": "yes"}]
    assert parse(Endpoint.CHAT, Prompts.TEXT, messages=messages).isl_tokens == 1 + 3 + 1 + 3 + 2 * 4


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ([7, 8], "prompt: Input should be a valid string"),
        ([[7, 8]], "prompt: Input should be a valid string"),
        ("", "the prompt is empty"),
    ],
)
def test_a_strict_server_refuses_token_ids(prompt, message):
    with pytest.raises(ApiError, match=message) as refusal:
        parse(prompts=Prompts.TEXT, prompt=prompt)
    assert refusal.value.status == 400


@pytest.mark.parametrize(
    ("body", "max_tokens", "min_tokens", "ignore_eos"),
    [
        ({}, 128, 0, False),
        ({"max_tokens": 7, "min_tokens": 3, "ignore_eos": True}, 7, 3, True),
        ({"max_completion_tokens": 9}, 9, 0, False),
        ({"nvext": {"max_tokens": 5, "min_tokens": 2, "ignore_eos": True}}, 5, 2, True),
        ({"max_tokens": 7, "ignore_eos": False, "nvext": {"max_tokens": 5, "ignore_eos": True, "annotations": []}}, 7, 0, False),
        ({"prompt": [1] * 990}, 10, 0, False),  # the default leaves room for the prompt
    ],
)
def test_lengths(body, max_tokens, min_tokens, ignore_eos):
    call = parse(**{"prompt": "a", **body})
    assert (call.max_tokens, call.min_tokens, call.ignore_eos) == (max_tokens, min_tokens, ignore_eos)


def test_osl_is_exact_with_ignore_eos_and_else_between_the_bounds():
    generator = random.Random(1)
    assert {parse(prompt="a", max_tokens=9, ignore_eos=True).draw_osl(generator) for _ in range(50)} == {9}
    assert {parse(prompt="a", max_tokens=9, min_tokens=6).draw_osl(generator) for _ in range(200)} == {6, 7, 8, 9}
    assert {parse(prompt="a", max_tokens=3).draw_osl(generator) for _ in range(200)} == {1, 2, 3}


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"prompt": "a", "model": "other"}, 404, "The model 'other' does not exist; this server has 'm'"),
        ({"prompt": ""}, 400, "the prompt is empty"),
        ({"prompt": []}, 400, "the prompt is empty"),
        ({"prompt": ["a", "b"]}, 400, "2 prompts in one request"),
        ({"prompt": "a", "n": 2}, 400, "n is 2"),
        ({"prompt": "a", "max_tokens": 3, "min_tokens": 4}, 400, "min_tokens is 4, more than max_tokens, which is 3"),
        ({"prompt": [1] * 600, "max_tokens": 401}, 400, "a prompt of 600 and an output of 401 tokens; the KV cache of one worker holds 1000"),
        ({"prompt": [1] * 1001}, 400, "holds 1000"),
        ({}, 422, "prompt: Field required"),
        ({"prompt": "a", "max_tokens": 0}, 422, "max_tokens: Input should be greater than 0"),
        ({"prompt": "a", "stream": "perhaps"}, 422, "stream: Input should be a valid boolean"),
        ({"prompt": {"text": "a"}}, 422, "prompt"),
    ],
)
def test_refusals(body, status, message):
    with pytest.raises(ApiError, match=message) as refusal:
        parse(**body)
    assert refusal.value.status == status
    assert refusal.value.body()["error"]["code"] == status


def test_a_body_that_is_no_json_or_no_object():
    for raw, status in ((b"{", 400), (b"\xff", 400), (b"[]", 422), (b"", 400)):
        with pytest.raises(ApiError) as refusal:
            parse_call(Endpoint.CHAT, raw, model="m", max_kv_tokens=1000)
        assert refusal.value.status == status
