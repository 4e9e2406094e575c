"""Why an engine did not start, from the lines that engines print."""

from pathlib import Path

import pytest

from sla_planner.engines.backends import backend, backend_names

LOGS = Path(__file__).parents[1] / "data" / "engine_logs"


def failure(log, name="vllm"):
    return backend(name).failure(log)


@pytest.mark.parametrize(
    ("line", "reason", "retry"),
    [
        (
            "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.",
            "out of GPU memory: torch.OutOfMemoryError: CUDA out of memory. Tried",
            False,
        ),
        ("torch.OutOfMemoryError: HIP out of memory. Tried to allocate 1 GiB", "out of GPU memory", False),
        ("RuntimeError: CUDA error: out of memory", "out of GPU memory", False),
        ("ggml_backend_cuda_buffer_type_alloc_buffer: cudaMalloc failed: out of memory", "out of GPU memory", False),
        (
            "ValueError: To serve at least one request with the models's max seq len (131072), (16.00 GiB KV cache is needed, which is larger than",
            "the KV cache does not hold one request of the longest length: To serve at least one request with the models's max seq len (131072)",
            False,
        ),
        (
            "ValueError: To serve at least one request with the model's max seq len (131072), (16.00 GiB",
            "the KV cache does not hold one request",
            False,
        ),
        ("ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization`", "the weights leave no memory", False),
        ("RuntimeError: Not enough memory. Please try to increase --mem-fraction-static. Current", "the weights leave no memory", False),
        ("ValueError: Free memory on device cuda:0 (11.02/139.81 GiB) on startup is less than", "something else holds memory of the GPU", True),
        (
            "OSError: [Errno 98] error while attempting to bind on address ('0.0.0.0', 8000): address already in use",
            "the port is taken: [Errno 98]",
            True,
        ),
        ("ERROR:    [Errno 98] Address already in use", "the port is taken", True),
        ("  Value error, Total number of attention heads (40) must be divisible by tensor parallel size (3).", "the model cannot be split", False),
        ("    assert self.total_num_heads % tp_size == 0", "the model cannot be split", False),
        ("AssertionError: 40 is not divisible by 3", "the model cannot be split", False),
        ("OSError: no/such is not a local folder and is not a valid model identifier listed on hub", "the model is not found: no/such is not", False),
        (
            "huggingface_hub.errors.GatedRepoError: 401 Client Error. (Request ID: x)",
            "the model is gated: huggingface_hub.errors.GatedRepoError",
            False,
        ),
        ("api_server.py: error: unrecognized arguments: --tensor-paralel-size 4", "the engine does not know an argument: error: unrecognized", False),
        ("launch_server.py: error: argument --tp-size: invalid int value: 'x'", "the engine does not know an argument", False),
        ("RuntimeError: No CUDA GPUs are available", "a GPU is missing", False),
        ("torch.AcceleratorError: CUDA error: invalid device ordinal", "a GPU is missing: invalid device ordinal", False),
        ("RuntimeError: Failed to infer device type, please set the environment variable", "a GPU is missing", False),
        (
            "torch.distributed.DistBackendError: NCCL error in: ProcessGroupNCCL.cpp:94",
            "the GPUs of the engine cannot talk to each other (NCCL)",
            True,
        ),
    ],
)
def test_what_a_line_means(line, reason, retry):
    found = failure(f"INFO loading\n(Worker_TP0 pid=12) ERROR 11-21 12:00:00 [core.py:8] {line}\nlast words\n")
    assert found.reason.startswith(reason)
    assert found.retry is retry
    assert found.hint


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (
            "0.00.005 E gguf_init_from_file: failed to open GGUF file 'no.gguf' (No such file or directory)",
            "the model is not found or cannot be read",
        ),
        ("0.00.003 E srv         start: couldn't bind HTTP server socket, hostname: 127.0.0.1, port: 54215", "the port is taken"),
        ("0.01.2 E llama_init_from_model: failed to initialize the context: failed to allocate buffer for kv cache", "out of memory"),
        ("error: invalid argument: --no-such", "the engine does not know an argument: error: invalid argument: --no-such"),
    ],
)
def test_llamacpp(line, reason):
    assert failure(line, "llamacpp").reason.startswith(reason)


def test_simulated():
    taken = "error: cannot listen on 127.0.0.1:8000: error while attempting to bind on address ('127.0.0.1', 8000): address already in use; free it"
    assert failure(taken, "simulated").reason.startswith("the port is taken: error while attempting to bind")
    assert failure(taken, "simulated").retry
    refused = failure("error: time-scale is 0; give a positive factor, such as 1 or 10", "simulated")
    assert (refused.reason, refused.retry) == ("engine-sim refuses to start: error: time-scale is 0; give a positive factor, such as 1 or 10", False)


def test_a_rank_out_of_memory_explains_the_broken_connection_of_the_others():
    assert failure((LOGS / "vllm-0.32-tp2.log").read_text()).reason.startswith("out of GPU memory: torch.OutOfMemoryError")


def test_of_several_starts_the_last_counts():
    log = "ERROR: [Errno 98] Address already in use\n...\nRuntimeError: CUDA error: out of memory\n"
    assert failure(log).reason.startswith("out of GPU memory")
    assert failure("\n".join(reversed(log.splitlines()))).retry


def test_colours_and_long_lines():
    found = failure("\x1b[31mtorch.OutOfMemoryError: \x1b[0mCUDA out of memory. " + "x" * 1000)
    assert "\x1b" not in found.reason
    assert len(found.reason) < 250
    assert found.reason.endswith("…")


@pytest.mark.parametrize("name", backend_names())
def test_a_healthy_start_is_no_failure(name):
    files = [file for file in sorted(LOGS.glob("*.log")) if file.name != "vllm-0.32-tp2.log"]
    assert len(files) == 4
    for file in files:
        assert failure(file.read_text(), name) is None
    assert failure("", name) is None
    assert failure("WARNING: Port 8000 is already in use, trying port 8001\nINFO: NCCL version 2.27\n", name) is None
