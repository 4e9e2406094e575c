"""A llama with random weights in a GGUF file of a few MB, for llama.cpp's own server: real batching, slots and KV cache, no meaning.

vocabulary   <unk> <s> </s>, 256 bytes, then one word per id: ` w259` ... Prompts of token ids (`traffic.prompts`) need the ids 1000 to 3999.
output       rows of the first 259 ids are zero: among thousands of random logits a zero is never near the top, so an answer neither ends early nor
             holds half a character, and a token is an event
"""

from __future__ import annotations

import sys
from pathlib import Path

import gguf
import numpy as np

VOCABULARY = 4000
SPECIAL = ("<unk>", "<s>", "</s>")
TRAINED_CONTEXT = 4096
_BYTES = 256
# Large enough that a prompt takes tens of milliseconds on one core: a client on a busy machine is itself late by some.
_LAYERS, _HIDDEN, _FEED_FORWARD, _HEADS, _KV_HEADS = 4, 256, 1024, 4, 2
_HEAD = _HIDDEN // _HEADS


def write_tiny_gguf(path: Path) -> None:
    """Always the same bytes."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_context_length(TRAINED_CONTEXT)
    writer.add_embedding_length(_HIDDEN)
    writer.add_block_count(_LAYERS)
    writer.add_feed_forward_length(_FEED_FORWARD)
    writer.add_head_count(_HEADS)
    writer.add_head_count_kv(_KV_HEADS)
    writer.add_rope_dimension_count(_HEAD)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(VOCABULARY)
    _add_vocabulary(writer)
    _add_weights(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_vocabulary(writer: gguf.GGUFWriter) -> None:
    kinds = gguf.TokenType
    first_word = len(SPECIAL) + _BYTES
    writer.add_tokenizer_model("llama")
    writer.add_token_list(
        [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(_BYTES)), *(f"\u2581w{number}" for number in range(first_word, VOCABULARY))]
    )
    writer.add_token_scores([0.0] * first_word + [-float(number) for number in range(first_word, VOCABULARY)])
    writer.add_token_types([kinds.UNKNOWN, kinds.CONTROL, kinds.CONTROL] + [kinds.BYTE] * _BYTES + [kinds.NORMAL] * (VOCABULARY - first_word))
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(False)


def _add_weights(writer: gguf.GGUFWriter) -> None:
    random = np.random.default_rng(0)

    def matrix(rows: int, columns: int) -> np.ndarray:
        return (random.standard_normal((rows, columns)) / np.sqrt(columns)).astype(np.float16)

    ones = np.ones(_HIDDEN, dtype=np.float32)
    output = matrix(VOCABULARY, _HIDDEN)
    output[: len(SPECIAL) + _BYTES] = 0.0
    writer.add_tensor("token_embd.weight", matrix(VOCABULARY, _HIDDEN))
    writer.add_tensor("output.weight", output)
    writer.add_tensor("output_norm.weight", ones)
    for layer in range(_LAYERS):
        shapes = {
            "attn_q": (_HIDDEN, _HIDDEN),
            "attn_k": (_KV_HEADS * _HEAD, _HIDDEN),
            "attn_v": (_KV_HEADS * _HEAD, _HIDDEN),
            "attn_output": (_HIDDEN, _HIDDEN),
            "ffn_gate": (_FEED_FORWARD, _HIDDEN),
            "ffn_up": (_FEED_FORWARD, _HIDDEN),
            "ffn_down": (_HIDDEN, _FEED_FORWARD),
        }
        for name, shape in shapes.items():
            writer.add_tensor(f"blk.{layer}.{name}.weight", matrix(*shape))
        writer.add_tensor(f"blk.{layer}.attn_norm.weight", ones)
        writer.add_tensor(f"blk.{layer}.ffn_norm.weight", ones)


if __name__ == "__main__":
    write_tiny_gguf(Path(sys.argv[1]))
