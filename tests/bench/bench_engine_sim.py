"""How many streams the simulated engine carries on one core, and how well its steps keep to the law.

    python tests/bench/bench_engine_sim.py [--seconds 5] [--time-scale 1] [--quick]

One decode worker holds all streams. The server runs in a process of its own; this one only drains what it sends. Error = |real - lawful| / lawful of
the last 1000 steps, CPU = CPU seconds of the server per second. Read the table beside the load of the machine, which is printed too.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
import urllib.request
from typing import Any
from urllib.parse import urlsplit

STREAMS = (50, 100, 150, 200, 250, 300)
ISL_TOKENS = 1000
OSL_TOKENS = 2000  # longer than a row takes: its streams are cut
SETTLE_S = 1.0


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=5.0, help="measured per row")
    parser.add_argument("--time-scale", type=float, default=1.0)
    parser.add_argument("--quick", action="store_true", help="one row of one second")
    flags = parser.parse_args()
    rows, seconds = (STREAMS[:1], 1.0) if flags.quick else (STREAMS, flags.seconds)
    print(f"load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores\n")
    print("| streams | step ms | tokens/s | error p50 | error p95 | late steps | CPU |\n|---|---|---|---|---|---|---|")
    for streams in rows:
        print(asyncio.run(measure(streams, seconds, flags.time_scale)), flush=True)


async def measure(streams: int, seconds: float, time_scale: float) -> str:
    """One row, on a server of its own."""
    command = [sys.executable, "-m", "sla_planner", "engine-sim", "--port", "0", "--time-scale", str(time_scale)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            url = server.stdout.readline().split(" on ")[1].split()[0]
            drains = [await open_stream(url) for _ in range(streams)]
            while (await state(url))["workers"]["decode"][0]["requests"] < streams:
                await asyncio.sleep(0.1)
            await asyncio.sleep(SETTLE_S)
            before, begun = (await state(url))["timing"], time.monotonic()
            await asyncio.sleep(seconds)
            after, took = (await state(url))["timing"], time.monotonic() - begun
            for drain in drains:
                drain.close()
        finally:
            server.terminate()
    steps = after["steps"] - before["steps"]
    late = (after["late_steps"] - before["late_steps"]) / steps
    cpu = (after["cpu_s"] - before["cpu_s"]) / took
    errors = f"{after['step_error_p50']:.1%} | {after['step_error_p95']:.1%}"
    return f"| {streams} | {1000 * took / steps:.1f} | {steps * streams / took:.0f} | {errors} | {late:.1%} | {cpu:.0%} |"


class Drain(asyncio.Protocol):
    """Reads and forgets."""


async def open_stream(url: str) -> asyncio.Transport:
    body = json.dumps({"prompt": [1] * ISL_TOKENS, "max_tokens": OSL_TOKENS, "ignore_eos": True, "stream": True}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: bench\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    where = urlsplit(url)
    transport, _ = await asyncio.get_running_loop().create_connection(Drain, where.hostname, where.port)
    transport.write(head + body)
    return transport


async def state(url: str) -> dict[str, Any]:
    def fetch() -> dict[str, Any]:
        with urllib.request.urlopen(f"{url}/sim/state") as answer:
            content: dict[str, Any] = json.load(answer)
        return content

    return await asyncio.to_thread(fetch)


if __name__ == "__main__":
    main()
