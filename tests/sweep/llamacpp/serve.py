"""llama.cpp's own HTTP server on a GGUF file, until SIGTERM. A program of its own: `serve.py MODEL --port PORT`; its log goes to stderr."""

from __future__ import annotations

import argparse
import signal

import xllamacpp


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--slots", type=int, default=4)
    parser.add_argument("--context", type=int, default=4096, help="tokens that the KV cache holds, all slots together")
    parser.add_argument("--unified", action="store_true", help="one KV pool for all slots")
    parser.add_argument("--cache", action="store_true", help="answer prompts that begin as an earlier one from the cache, as servers do")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    stop = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, stop)  # before the server has threads: they inherit it
    server = xllamacpp.Server(_params(given))  # returns when the model is loaded
    signal.sigwait(stop)
    del server


def _params(given: argparse.Namespace) -> xllamacpp.CommonParams:
    params = xllamacpp.CommonParams()
    params.model.path = given.model
    params.port = given.port
    params.n_parallel = given.slots
    params.n_ctx = given.context
    params.kv_unified = given.unified
    params.fit_params = False  # take the context as it was asked for
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = given.threads
    params.n_threads_http = given.slots + 4
    params.cache_prompt = given.cache
    params.cache_ram_mib = 1024 if given.cache else 0
    params.endpoint_metrics = True
    params.ui = False
    return params


if __name__ == "__main__":
    main()
