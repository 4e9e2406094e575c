"""The event core: every request through prefill and decode, event by event, under the laws of `model.batching`.

    arrival         the prompt joins one FCFS queue; an idle prefill worker takes whole prompts from its head, up to `max_batched_tokens`, or one
                    that is longer
    prefill ends    every prompt of the batch has its first token; those that want more go to the handover, at once or after their KV transfer
    handover        FCFS: to the ready decode worker with the fewest requests that admits it; the head waits until one does
    decode ends     a request has all its tokens

Decode in virtual time. All requests of a worker advance together, one token per step, and a step of batch b with K tokens of KV takes
c0 + c1 b + c2 K. With x = tokens each has got since the last event, K grows by b x, so that the time for x tokens is

    t(x) = (c0 + c1 b + c2 K) x + c2 b x^2 / 2            and its inverse is one square root.

A request that wants n tokens more when the worker's count is V leaves at the count V + n: a heap of those counts per worker says who is next, and
an event costs O(log b) whatever happens to the others. Steps are taken as continuous, which moves a token by less than one step.

Everything is in arrays (`Core`), so that the same functions run compiled and as Python (`compiled`). Times are seconds, lengths tokens.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from sla_planner.simulate.compiled import compiled, inlined

ABSENT, READY, DRAINING, GONE = 0, 1, 2, 3  # state of a worker's slot; ABSENT also while it starts

# of `Core.cells`
NEXT_ARRIVAL, HEAD, FIRST_TOKENS, FINISHED, HANDOVER_HEAD, HANDOVER_TAIL, TRANSFERS, IDLE_PREFILL, PREFILL_SLOTS, DECODE_SLOTS, NEXT_DECODE = range(
    11
)
INDEX_CELLS = 11

# of `Core.law`: seconds, tokens
C0_S, C1_S, C2_S, MAX_BATCHED, MAX_SEQUENCES, MAX_KV, TRANSFER_S, TRANSFER_S_PER_TOKEN = range(8)
LAW_CELLS = 8

# histograms of `Core.tally`; each has its counts, then its sum
TTFT, ITL, ISL, OSL, DURATION = range(5)
HISTOGRAMS = 5

NEVER = math.inf


class Core(NamedTuple):
    """The whole state. `n` requests, `p` and `d` slots for workers, `s` the most requests of one decode worker.

    request     arrival_s, first_token_s, finish_s (n,) float; isl, osl, prefill_tokens (n,) int32: less than isl may have to be computed of a prompt
    prefill     p_state (p,) int8; p_until_s (p,) float, NEVER while idle; p_from, p_to (p,) int64: its batch is a range of requests; p_slow factor;
                p_busy_s: seconds of service begun
    decode      d_state, d_batch, d_count, d_at_s, d_kv, d_reserved, d_next_s, d_slow (d,); heap_count (d, s) float, heap_request (d, s) int32
    gone_s      p_gone_s, d_gone_s: when a draining worker left
    queues      handover (n,) int32, a ring; transfer_s (n,) float, transfer_request (n,) int32: a heap
    tables      service_s (longest prompt + 1,): time of a prefill batch of so many tokens; law (LAW_CELLS,); edges (HISTOGRAMS, e), padded with inf
    seen        tally (HISTOGRAMS, e + 2): observations per bucket, one more than edges, and the sum; cells (INDEX_CELLS,) int64: counters
    """

    arrival_s: np.ndarray
    isl: np.ndarray
    osl: np.ndarray
    prefill_tokens: np.ndarray
    first_token_s: np.ndarray
    finish_s: np.ndarray
    p_state: np.ndarray
    p_until_s: np.ndarray
    p_from: np.ndarray
    p_to: np.ndarray
    p_slow: np.ndarray
    p_busy_s: np.ndarray
    p_gone_s: np.ndarray
    d_state: np.ndarray
    d_batch: np.ndarray
    d_count: np.ndarray
    d_at_s: np.ndarray
    d_kv: np.ndarray
    d_reserved: np.ndarray
    d_next_s: np.ndarray
    d_slow: np.ndarray
    d_gone_s: np.ndarray
    heap_count: np.ndarray
    heap_request: np.ndarray
    handover: np.ndarray
    transfer_s: np.ndarray
    transfer_request: np.ndarray
    service_s: np.ndarray
    law: np.ndarray
    edges: np.ndarray
    tally: np.ndarray
    cells: np.ndarray


@compiled
def advance(core: Core, until_s: float) -> None:
    """Everything that happens up to and including `until_s`."""
    index = core.cells
    total = len(core.arrival_s)
    prefill_worker, prefill_s = _next_prefill(core)
    while True:
        arrival_s = core.arrival_s[index[NEXT_ARRIVAL]] if index[NEXT_ARRIVAL] < total else NEVER
        decode_s = core.d_next_s[index[NEXT_DECODE]]
        transfer_s = core.transfer_s[0] if index[TRANSFERS] > 0 else NEVER
        now_s = min(min(arrival_s, prefill_s), min(decode_s, transfer_s))
        if now_s > until_s or now_s == NEVER:
            return
        if decode_s == now_s:
            _decode_ends(core, index[NEXT_DECODE], now_s)
            if index[HANDOVER_HEAD] < index[HANDOVER_TAIL]:
                dispatch(core, now_s)
        elif prefill_s == now_s:
            _prefill_ends(core, prefill_worker, now_s)
            start_prefill(core, now_s)
            dispatch(core, now_s)
            prefill_worker, prefill_s = _next_prefill(core)
        elif transfer_s == now_s:
            request = _pop(core.transfer_s, core.transfer_request, index[TRANSFERS])
            index[TRANSFERS] -= 1
            _hand_over(core, request)
            dispatch(core, now_s)
        else:
            request = index[NEXT_ARRIVAL]
            index[NEXT_ARRIVAL] += 1
            _observe(core, ISL, float(core.isl[request]), 1.0)
            if index[IDLE_PREFILL] > 0:
                start_prefill(core, now_s)
                prefill_worker, prefill_s = _next_prefill(core)


@inlined
def start_prefill(core: Core, now_s: float) -> None:
    """Idle ready workers take batches from the head of the queue, the lowest slot first."""
    index = core.cells
    for worker in range(index[PREFILL_SLOTS]):
        if index[HEAD] >= index[NEXT_ARRIVAL] or index[IDLE_PREFILL] == 0:
            return
        if core.p_state[worker] != READY or core.p_until_s[worker] != NEVER:
            continue
        first = index[HEAD]
        tokens = int(core.prefill_tokens[first])
        last = first + 1
        while last < index[NEXT_ARRIVAL] and tokens + core.prefill_tokens[last] <= core.law[MAX_BATCHED]:
            tokens += core.prefill_tokens[last]
            last += 1
        service_s = core.service_s[tokens] * core.p_slow[worker]
        core.p_from[worker], core.p_to[worker] = first, last
        core.p_until_s[worker] = now_s + service_s
        core.p_busy_s[worker] += service_s
        index[HEAD] = last
        index[IDLE_PREFILL] -= 1


@inlined
def dispatch(core: Core, now_s: float) -> None:
    """The head of the handover goes to the least loaded ready decode worker that admits it, again and again."""
    index = core.cells
    while index[HANDOVER_HEAD] < index[HANDOVER_TAIL]:
        request = core.handover[index[HANDOVER_HEAD]]
        tokens = float(core.isl[request]) + float(core.osl[request])
        chosen, fewest = -1, np.int64(1 << 40)
        for worker in range(index[DECODE_SLOTS]):
            batch = core.d_batch[worker]
            if core.d_state[worker] != READY or batch >= fewest:
                continue
            if batch == 0 or (batch < core.law[MAX_SEQUENCES] and core.d_reserved[worker] + tokens <= core.law[MAX_KV]):
                chosen, fewest = worker, batch
        if chosen < 0:
            return
        index[HANDOVER_HEAD] += 1
        _admit(core, chosen, request, now_s)


@inlined
def slow_down(core: Core, worker: int, factor: float, now_s: float) -> None:
    """Steps of a decode worker take `factor` times as long from now on."""
    _progress(core, worker, now_s)
    core.d_slow[worker] = factor
    _plan_next(core, worker)
    find_next_decode(core)


@inlined
def find_next_decode(core: Core) -> None:
    best = 0
    for worker in range(1, core.cells[DECODE_SLOTS]):
        if core.d_next_s[worker] < core.d_next_s[best]:
            best = worker
    core.cells[NEXT_DECODE] = best


@inlined
def _next_prefill(core: Core) -> tuple[int, float]:
    best, until_s = -1, NEVER
    for worker in range(core.cells[PREFILL_SLOTS]):
        if core.p_until_s[worker] < until_s:
            best, until_s = worker, core.p_until_s[worker]
    return best, until_s


@inlined
def _prefill_ends(core: Core, worker: int, now_s: float) -> None:
    index = core.cells
    core.p_until_s[worker] = NEVER
    if core.p_state[worker] == DRAINING:
        core.p_state[worker] = GONE
        core.p_gone_s[worker] = now_s
    else:
        index[IDLE_PREFILL] += 1
    for request in range(core.p_from[worker], core.p_to[worker]):
        core.first_token_s[request] = now_s
        index[FIRST_TOKENS] += 1
        _observe(core, TTFT, now_s - core.arrival_s[request], 1.0)
        if core.osl[request] <= 1:
            _finish(core, request, now_s)
        elif core.law[TRANSFER_S] == 0.0 and core.law[TRANSFER_S_PER_TOKEN] == 0.0:
            _hand_over(core, request)
        else:
            ready_s = now_s + core.law[TRANSFER_S] + core.law[TRANSFER_S_PER_TOKEN] * core.isl[request]
            _push(core.transfer_s, core.transfer_request, index[TRANSFERS], ready_s, request)
            index[TRANSFERS] += 1


@inlined
def _hand_over(core: Core, request: int) -> None:
    core.handover[core.cells[HANDOVER_TAIL]] = request  # every request is handed over once at most: the ring never wraps
    core.cells[HANDOVER_TAIL] += 1


@inlined
def _admit(core: Core, worker: int, request: int, now_s: float) -> None:
    _progress(core, worker, now_s)
    waited_s = now_s - core.first_token_s[request]
    if waited_s > 0:  # the gap before its second token contains the wait; the token itself is counted where it is made
        core.tally[ITL, -1] += waited_s
    batch = core.d_batch[worker]
    if batch == 0:
        core.d_count[worker] = 0.0
    leaves_at = core.d_count[worker] + core.osl[request] - 1
    _push(core.heap_count[worker], core.heap_request[worker], batch, leaves_at, request)
    core.d_batch[worker] = batch + 1
    core.d_kv[worker] += core.isl[request] + 1
    core.d_reserved[worker] += core.isl[request] + core.osl[request]
    _plan_next(core, worker)
    if core.d_next_s[worker] < core.d_next_s[core.cells[NEXT_DECODE]]:
        core.cells[NEXT_DECODE] = worker
    elif core.cells[NEXT_DECODE] == worker:
        find_next_decode(core)


@inlined
def _decode_ends(core: Core, worker: int, now_s: float) -> None:
    _progress(core, worker, now_s)
    batch = core.d_batch[worker]
    core.d_count[worker] = core.heap_count[worker, 0]  # exact: rounding must not add up
    request = _pop(core.heap_count[worker], core.heap_request[worker], batch)
    batch -= 1
    core.d_batch[worker] = batch
    if batch == 0:
        core.d_kv[worker] = 0.0
        core.d_reserved[worker] = 0.0
        if core.d_state[worker] == DRAINING:
            core.d_state[worker] = GONE
            core.d_gone_s[worker] = now_s
    else:
        core.d_kv[worker] -= core.isl[request] + core.osl[request]
        core.d_reserved[worker] -= core.isl[request] + core.osl[request]
    _finish(core, request, now_s)
    _plan_next(core, worker)
    find_next_decode(core)


@inlined
def _finish(core: Core, request: int, now_s: float) -> None:
    core.finish_s[request] = now_s
    core.cells[FINISHED] += 1
    _observe(core, OSL, float(core.osl[request]), 1.0)
    _observe(core, DURATION, now_s - core.arrival_s[request], 1.0)


@inlined
def _step(core: Core, worker: int) -> tuple[float, float]:
    """Seconds per token now, and half of what that grows by per token."""
    law, slow = core.law, core.d_slow[worker]
    batch = core.d_batch[worker]
    return (law[C0_S] + law[C1_S] * batch + law[C2_S] * core.d_kv[worker]) * slow, 0.5 * law[C2_S] * batch * slow


@inlined
def _progress(core: Core, worker: int, now_s: float) -> None:
    """Tokens since the worker was last looked at."""
    elapsed_s = now_s - core.d_at_s[worker]
    core.d_at_s[worker] = now_s
    batch = core.d_batch[worker]
    if batch == 0 or elapsed_s <= 0.0:
        return
    step_s, growth = _step(core, worker)
    tokens = 2.0 * elapsed_s / (step_s + math.sqrt(step_s * step_s + 4.0 * growth * elapsed_s))
    core.d_count[worker] += tokens
    core.d_kv[worker] += batch * tokens
    _observe(core, ITL, elapsed_s / tokens, batch * tokens)


@inlined
def _plan_next(core: Core, worker: int) -> None:
    """When the next request of the worker has all its tokens."""
    if core.d_batch[worker] == 0:
        core.d_next_s[worker] = NEVER
        return
    step_s, growth = _step(core, worker)
    tokens = max(core.heap_count[worker, 0] - core.d_count[worker], 0.0)
    core.d_next_s[worker] = core.d_at_s[worker] + tokens * (step_s + growth * tokens)


@inlined
def _observe(core: Core, histogram: int, value: float, weight: float) -> None:
    edges = core.edges[histogram]
    low, high = 0, len(edges)
    while low < high:
        middle = (low + high) // 2
        if edges[middle] < value:
            low = middle + 1
        else:
            high = middle
    core.tally[histogram, low] += weight
    core.tally[histogram, -1] += value * weight


@inlined
def _push(keys: np.ndarray, items: np.ndarray, size: int, key: float, item: int) -> None:
    """Into a binary heap of `size` entries. Equal keys leave in order of item."""
    place = size
    while place > 0:
        parent = (place - 1) >> 1
        if keys[parent] < key or (keys[parent] == key and items[parent] < item):
            break
        keys[place], items[place] = keys[parent], items[parent]
        place = parent
    keys[place], items[place] = key, item


@inlined
def _pop(keys: np.ndarray, items: np.ndarray, size: int) -> int:
    """The first of a binary heap of `size` entries, which then has one fewer."""
    first = items[0]
    last = size - 1
    key, item = keys[last], items[last]
    place = 0
    while True:
        child = 2 * place + 1
        if child >= last:
            break
        other = child + 1
        if other < last and (keys[other] < keys[child] or (keys[other] == keys[child] and items[other] < items[child])):
            child = other
        if key < keys[child] or (key == keys[child] and item < items[child]):
            break
        keys[place], items[place] = keys[child], items[child]
        place = child
    keys[place], items[place] = key, item
    return int(first)
