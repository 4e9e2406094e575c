"""The virtual scaling protocol: what a decision written as a few integers means. Pure: no I/O, no clock.

Keys of NVIDIA Dynamo's `VirtualConnector` (-1 = unset):

    num_prefill_workers, num_decode_workers   what the last decision asks for
    decision_id                               counts decisions up from 0
    scaled_decision_id                        the last decision that the other side has carried out

A decision is acknowledged once scaled_decision_id >= decision_id. A new target is

    the counts asked for already              unchanged, nothing is written
    while the last one is unacknowledged      waiting, nothing is asked for until `MAX_WAIT_S` have passed since the first such tick
    else                                      decision_id + 1 and both counts, in one write

Our own notes stand beside these keys, because the protocol keeps neither past counts nor times, and a planner started anew for every tick
(`planner --once`) must know both:

    previous_prefill_workers, previous_decode_workers   the last acknowledged counts when the decision was written: what serves until it is done
    waiting_since                                       epoch seconds of the first tick that had to wait for the decision
    noted_decision_id                                   the decision these notes belong to; beside any other decision they count as unset
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from sla_planner.cluster.target import Applied, Fleet, Outcome
from sla_planner.plan.observation import WorkerCounts

DEFAULT_NAMESPACE = "dynamo"  # of the keys in etcd, when nobody names one
UNSET = -1
MAX_WAIT_S = 1800.0


@dataclass(frozen=True, slots=True)
class VirtualState:
    """Everything stored for one target at one moment. All integers; -1 = unset."""

    num_prefill_workers: int = UNSET
    num_decode_workers: int = UNSET
    decision_id: int = UNSET
    scaled_decision_id: int = UNSET
    noted_decision_id: int = UNSET
    previous_prefill_workers: int = UNSET
    previous_decode_workers: int = UNSET
    waiting_since: int = UNSET

    @property
    def decided(self) -> bool:
        """There is a whole decision."""
        return UNSET not in (self.num_prefill_workers, self.num_decode_workers, self.decision_id)

    @property
    def acknowledged(self) -> bool:
        return self.scaled_decision_id >= self.decision_id

    @property
    def noted(self) -> bool:
        """The notes belong to the decision, not to one that another program has replaced since."""
        return self.noted_decision_id == self.decision_id


KEYS = tuple(field.name for field in fields(VirtualState))
DYNAMO_KEYS = KEYS[:4]


@dataclass(frozen=True, slots=True)
class Step:
    """What to store (equal to what is stored when there is nothing to write) and what to tell."""

    state: VirtualState
    applied: Applied


def decide(state: VirtualState, prefill: int, decode: int, now_s: float) -> Step:
    """The next step towards `prefill` and `decode` workers (>= 0) at `now_s` (epoch seconds)."""
    asked = f"prefill={prefill}, decode={decode}"
    if state.decided and (prefill, decode) == (state.num_prefill_workers, state.num_decode_workers):
        return Step(state, Applied(Outcome.UNCHANGED, f"No scaling needed ({asked})"))
    following = _following(state, prefill, decode)
    if state.acknowledged or not state.decided:
        return Step(following, Applied(Outcome.APPLIED, f"Decision {following.decision_id} written ({asked})"))
    waiting = _waiting(state, now_s)
    waited_s = now_s - waiting.waiting_since
    if waited_s < MAX_WAIT_S:
        why = f"decision {state.decision_id} is not acknowledged yet, waited {waited_s:.0f} s of at most {MAX_WAIT_S:.0f} s"
        return Step(waiting, Applied(Outcome.WAITING, f"Not asking for {asked}: {why}"))
    why = f"decision {state.decision_id} was not acknowledged within {MAX_WAIT_S:.0f} s"
    return Step(following, Applied(Outcome.APPLIED, f"Decision {following.decision_id} written ({asked}) although {why}"))


def acknowledge(state: VirtualState, decision_id: int) -> VirtualState:
    """`decision_id` is carried out. An older acknowledgement never undoes a newer one."""
    return replace(state, scaled_decision_id=max(state.scaled_decision_id, decision_id))


def fleet(state: VirtualState) -> Fleet | None:
    """Workers as far as the keys tell; None before any decision.

    An acknowledged decision is ready. While one is not, the workers that both it and the last acknowledged one ask for are ready, the rest is
    starting: `total` stays what was asked for, also while a role shrinks.
    """
    if not state.decided:
        return None
    previous_prefill, previous_decode = _serving(state)
    return Fleet(
        prefill=_workers(state.num_prefill_workers, previous_prefill),
        decode=_workers(state.num_decode_workers, previous_decode),
    )


def _following(state: VirtualState, prefill: int, decode: int) -> VirtualState:
    # An acknowledgement left over from keys that someone deleted must not acknowledge this decision.
    decision_id = max(state.decision_id, state.scaled_decision_id) + 1
    previous_prefill, previous_decode = _serving(state)
    return VirtualState(
        num_prefill_workers=prefill,
        num_decode_workers=decode,
        decision_id=decision_id,
        scaled_decision_id=state.scaled_decision_id,
        noted_decision_id=decision_id,
        previous_prefill_workers=previous_prefill,
        previous_decode_workers=previous_decode,
    )


def _waiting(state: VirtualState, now_s: float) -> VirtualState:
    """The state with the time of the first wait noted. A time in the future (the clock was set back) starts the wait anew."""
    if state.noted and UNSET < state.waiting_since <= now_s:
        return state
    previous_prefill, previous_decode = _serving(state)
    return replace(
        state,
        noted_decision_id=state.decision_id,
        previous_prefill_workers=previous_prefill,
        previous_decode_workers=previous_decode,
        waiting_since=int(now_s),
    )


def _serving(state: VirtualState) -> tuple[int, int]:
    """Last acknowledged counts (prefill, decode), -1 where unknown."""
    if state.acknowledged:
        return state.num_prefill_workers, state.num_decode_workers
    if state.noted:
        return state.previous_prefill_workers, state.previous_decode_workers
    return UNSET, UNSET


def _workers(asked: int, serving: int) -> WorkerCounts:
    ready = min(asked, max(serving, 0))
    return WorkerCounts(ready=ready, starting=asked - ready)
