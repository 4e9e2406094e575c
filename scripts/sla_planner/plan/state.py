"""What the planner remembers between two decisions of one target. Plain data: it travels as JSON through a file or a ConfigMap.

A state is only read back by the settings that wrote it: the loads it holds are in workers of one engine under one promise, per interval.
`fingerprint` names those; a state with another one is not used, and the planner says so and starts afresh.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from sla_planner.model.engine import Engine
from sla_planner.plan.calibration import Calibration
from sla_planner.plan.forecast import LARGEST, SeriesState
from sla_planner.plan.jumps import JumpMemory
from sla_planner.plan.room import Room
from sla_planner.plan.settings import PlanSettings
from sla_planner.plan.stability import Below, Turns
from sla_planner.plan.stuck import Starting
from sla_planner.plan.work import LONGEST_TOKENS, LengthMix, Lengths

FORMAT = 4


@dataclass(frozen=True, slots=True)
class RoleState:
    """One role: the loads it saw, the sizes it needed, and how its engine compares with the profile."""

    series: SeriesState
    memory: JumpMemory
    calibration: Calibration
    below: Below = field(default_factory=Below)
    needs: tuple[int, ...] = ()
    asked: int | None = None  # what the last decision asked for
    turns: Turns = field(default_factory=Turns)
    room: Room = field(default_factory=Room)
    starting: Starting = field(default_factory=Starting)


@dataclass(frozen=True, slots=True)
class ErrorBudget:
    """Requests finished and missed, and the time they took, over windows in which both shares were known; sums that fade over days."""

    requests: float = 0.0
    misses: float = 0.0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class PlanState:
    """`None` times: never. `gpu_seconds` counts both roles since the state began."""

    prefill: RoleState
    decode: RoleState
    requests: SeriesState
    isl: SeriesState
    osl: SeriesState
    mix: LengthMix | None = None
    prefill_arrivals: float | None = None  # arriving prefill work, averaged over what a queue absorbs (worker-seconds/s)
    decode_arrivals: float | None = None  # arriving decode work, smoothed over a residence (worker-seconds/s)
    wave: bool = False  # decode serves, or is about to, what prefill held back
    budget: ErrorBudget = field(default_factory=ErrorBudget)
    last_at_s: float | None = None
    known_at_s: float | None = None
    gpu_seconds: float = 0.0


def new_state(settings: PlanSettings) -> PlanState:
    """Nothing seen yet."""

    def series() -> SeriesState:
        return SeriesState(settings.predictor, settings.interval_s, settings.history_window)

    def role() -> RoleState:
        return RoleState(series(), JumpMemory.empty(), Calibration())

    return PlanState(prefill=role(), decode=role(), requests=series(), isl=series(), osl=series())


def fingerprint(settings: PlanSettings, engine: Engine) -> dict[str, Any]:
    """What the remembered loads depend on. The engine by a few of its latencies: equal ones make equal loads, whatever file they came from."""
    law = engine.itl_law
    latencies_ms = [engine.prefill.ttft_ms(isl_tokens) for isl_tokens in (100, 1_000, 10_000)]
    return {
        "profile": [float(f"{value:.6g}") for value in (*latencies_ms, law.c0_ms, law.c1_ms, law.c2_ms)],
        "sla": asdict(settings.sla),
        "interval_s": settings.interval_s,
        "predictor": settings.predictor.value,
        "history_window": settings.history_window,
        "gpus_per_worker": [settings.prefill.gpus_per_worker, settings.decode.gpus_per_worker],
    }


def state_to_json(state: PlanState, settings: PlanSettings, engine: Engine) -> dict[str, Any]:
    """Plain JSON types only, finite numbers only."""
    return {
        "format": FORMAT,
        "fingerprint": fingerprint(settings, engine),
        "prefill": _role_to_json(state.prefill),
        "decode": _role_to_json(state.decode),
        **{name: getattr(state, name).to_json() for name in ("requests", "isl", "osl")},
        "mix": None if state.mix is None else {"isl": state.mix.isl, "osl": state.mix.osl},
        "wave": state.wave,
        "budget": asdict(state.budget),
        **{name: getattr(state, name) for name in _NUMBERS},
    }


def state_from_json(document: Mapping[str, Any], settings: PlanSettings, engine: Engine) -> tuple[PlanState, str]:
    """The state, and why it was not used (empty when it was). Raises KeyError, TypeError or ValueError when `document` is not a state."""
    if document["format"] != FORMAT:
        return new_state(settings), f"the saved state has format {document['format']}, this version reads {FORMAT}: starting afresh"
    changed = [name for name, value in fingerprint(settings, engine).items() if document["fingerprint"].get(name) != value]
    if changed:
        return new_state(settings), f"the saved state was made with another {', '.join(changed)}: starting afresh"
    numbers = {name: _number(document[name], optional=name != "gpu_seconds") for name in _NUMBERS}
    mix = document["mix"]
    return PlanState(
        prefill=_role_from_json(document["prefill"]),
        decode=_role_from_json(document["decode"]),
        requests=SeriesState.from_json(document["requests"]),
        isl=SeriesState.from_json(document["isl"]),
        osl=SeriesState.from_json(document["osl"]),
        mix=None if mix is None else LengthMix(_distribution(mix["isl"]), _distribution(mix["osl"])),
        wave=bool(document["wave"]),
        budget=ErrorBudget(**{name: _number(document["budget"][name]) for name in ("requests", "misses", "seconds")}),
        **numbers,
    ), ""


_NUMBERS = ("prefill_arrivals", "decode_arrivals", "last_at_s", "known_at_s", "gpu_seconds")


def _role_to_json(state: RoleState) -> dict[str, Any]:
    return {
        "series": state.series.to_json(),
        "memory": state.memory.to_json(),
        "calibration": state.calibration.to_json(),
        "below": {"since_s": state.below.since_s, "needs": state.below.needs},
        "needs": state.needs,
        "asked": state.asked,
        "turns": {"direction": state.turns.direction, "at_s": state.turns.at_s},
        "room": asdict(state.room),
        "starting": {"since_s": state.starting.since_s, "looks": state.starting.looks},
    }


def _role_from_json(document: Mapping[str, Any]) -> RoleState:
    below = document["below"]
    return RoleState(
        series=SeriesState.from_json(document["series"]),
        memory=JumpMemory.from_json(document["memory"]),
        calibration=Calibration.from_json(document["calibration"]),
        below=Below(_number(below["since_s"]), tuple((_number(at_s), int(need)) for at_s, need in below["needs"])),
        needs=tuple(int(need) for need in document["needs"]),
        asked=None if document["asked"] is None else int(document["asked"]),
        turns=Turns(int(document["turns"]["direction"]), tuple(_number(at_s) for at_s in document["turns"]["at_s"])),
        room=_room_from_json(document["room"]),
        starting=Starting(
            _number(document["starting"]["since_s"]),
            tuple((_number(at_s), int(starting)) for at_s, starting in document["starting"]["looks"]),
        ),
    )


def _room_from_json(document: Mapping[str, Any]) -> Room:
    return Room(
        waiting_since_s=_number(document["waiting_since_s"], optional=True),
        most=None if document["most"] is None else int(document["most"]),
        other=int(document["other"]),
        until_s=_number(document["until_s"]),
        attempts=int(document["attempts"]),
    )


def _distribution(document: Any) -> Lengths:
    tokens, shares = (tuple(_number(value) for value in part) for part in document)
    if not tokens or len(tokens) != len(shares) or abs(sum(shares) - 1) > 1e-6 or not 0 < min(tokens) <= max(tokens) <= LONGEST_TOKENS:
        raise ValueError(f"a length distribution needs tokens > 0 and <= {LONGEST_TOKENS:g} and as many shares that sum to 1")
    return tokens, shares


def _number(value: Any, *, optional: bool = False) -> Any:
    if value is None and optional:
        return None
    number = float(value)
    if not abs(number) < LARGEST:
        raise ValueError(f"{number:g} is not a number between +-{LARGEST:g}")
    return number
