"""Profiles on disk, in three layouts. A directory may hold several; the first complete one of this order is read.

    profile.json                                                     ours: all mappings, provenance, flags and notes of points; `"format": 1`
    selected_{prefill,decode}_interpolation/raw_data.npz             Dynamo's results tree: the selected mapping of each role, unnamed
    prefill_raw_data.json, decode_raw_data.json                      the same as JSON, the way a ConfigMap mounts it

Keys, dtypes and units of the last two are Dynamo's (`model/validation.py` lists them), so either planner reads either file. They name no mapping:
the reader gives tensor parallelism over as many GPUs as the numbers imply. They carry no flags either: the quality gates run on every read, so
only REPORTED flags, notes and batched prefill points need profile.json. A key that a profile.json does not have yet is read as its default.

Files come from other people: size is limited before anything is unpacked, nothing is unpickled, and whatever is wrong ends in a ProfileError that
names the file. Writes are atomic.
"""

from __future__ import annotations

import io
import json
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from sla_planner import atomic
from sla_planner.errors import ProfileError, UsageError
from sla_planner.model.gates import apply_gates
from sla_planner.model.profile import Profile, Provenance
from sla_planner.model.validation import DECODE_KEYS, MAX_KV_KEY, PREFILL_KEYS, checked, profile_from_arrays

PROFILE_JSON = "profile.json"
PREFILL_NPZ = "selected_prefill_interpolation/raw_data.npz"
DECODE_NPZ = "selected_decode_interpolation/raw_data.npz"
PREFILL_TWIN = "prefill_raw_data.json"
DECODE_TWIN = "decode_raw_data.json"

FORMAT = 1
MOST_BYTES = 4 << 20  # of a file, and of what it unpacks to; a profile of 2000 points per curve has 0.6 MB
_DAMAGED = "the file is damaged: copy it again or profile again"

# What zipfile, zlib and numpy's header parser (Python's own, hence the syntax errors) raise on damaged files.
_UNREADABLE = (
    zipfile.BadZipFile,
    zlib.error,
    tokenize.TokenError,
    SyntaxError,
    OSError,
    EOFError,
    ValueError,
    TypeError,
    KeyError,
    RuntimeError,
    MemoryError,
)

Arrays = Mapping[str, Any]


SAMPLE = "sample"


def sample_profile_dir() -> Path:
    """The profile that ships with the package: Llama-3.1-8B FP8 with vLLM on one H200, as NVIDIA measured it for Dynamo."""
    return Path(str(resources.files("sla_planner") / "sample" / "h200_llama31_8b_fp8"))


def read_profile(path: str | Path) -> Profile:
    """The profile in directory `path`, or in the profile.json `path`, with the quality gates applied. `sample`: the one that ships with the package,
    where nothing of that name is here.

    Raises ProfileError naming the file, the key and the value, or what was looked for and not found.
    """
    path = sample_profile_dir() if str(path) == SAMPLE and not Path(path).exists() else Path(path)
    try:
        if path.is_dir():
            return apply_gates(_read_directory(path))
        if path.is_file():
            return apply_gates(_read_profile_json(path))
    except OSError as error:
        raise ProfileError(f"cannot be read: {error.strerror}", file=error.filename or str(path), hint="check the permissions") from error
    raise ProfileError("no such file or directory", file=str(path), hint=f"name a results directory or a {PROFILE_JSON}")


def write_profile_json(profile: Profile, path: str | Path) -> None:
    """Everything in `profile`. Raises UsageError when `path` cannot be written, ProfileError when the profile could not be read back."""
    document = {"format": FORMAT, **asdict(checked(profile))}
    _write(Path(path), (json.dumps(document, indent=1, allow_nan=False) + "\n").encode())


def write_npz_tree(profile: Profile, directory: str | Path) -> None:
    """The selected mappings as Dynamo's results tree. Errors as `write_profile_json`."""
    for name, arrays in ((PREFILL_NPZ, _prefill_arrays(profile)), (DECODE_NPZ, _decode_arrays(profile))):
        packed = io.BytesIO()
        np.savez(packed, **arrays)
        _write(Path(directory) / name, packed.getvalue())


def write_json_twins(profile: Profile, directory: str | Path) -> None:
    """The selected mappings as Dynamo's JSON files. Errors as `write_profile_json`."""
    for name, text in json_twins(profile).items():
        _write(Path(directory) / name, text.encode())


def json_twins(profile: Profile) -> dict[str, str]:
    """File name to content of the JSON files: the data of ConfigMap `planner-profile-data`."""
    decode = {key: array.tolist() for key, array in _decode_arrays(profile).items()}
    decode[MAX_KV_KEY] = decode[MAX_KV_KEY][0]
    prefill = {key: array.tolist() for key, array in _prefill_arrays(profile).items()}
    return {PREFILL_TWIN: json.dumps(prefill, allow_nan=False) + "\n", DECODE_TWIN: json.dumps(decode, allow_nan=False) + "\n"}


def _read_directory(directory: Path) -> Profile:
    if (directory / PROFILE_JSON).is_file():
        return _read_profile_json(directory / PROFILE_JSON)
    pairs: tuple[tuple[str, str, Callable[[Path], Arrays]], ...] = ((PREFILL_NPZ, DECODE_NPZ, _read_npz), (PREFILL_TWIN, DECODE_TWIN, _read_json))
    missing = [PROFILE_JSON]
    for prefill_name, decode_name, read in pairs:
        prefill, decode = directory / prefill_name, directory / decode_name
        if prefill.is_file() and decode.is_file():
            return _from_pair(prefill, decode, read)
        missing += [name for name, file in ((prefill_name, prefill), (decode_name, decode)) if not file.is_file()]
    hint = "its sweep is not finished: start it again" if (directory / "points").is_dir() else "name the folder a sweep wrote to"
    raise ProfileError(f"no complete profile here, not found: {', '.join(missing)}", file=str(directory), hint=hint)


def _from_pair(prefill: Path, decode: Path, read: Callable[[Path], Arrays]) -> Profile:
    try:
        return profile_from_arrays(read(prefill), read(decode), Provenance(source=prefill.suffix.removeprefix(".")))
    except ProfileError as error:
        raise error if error.file else error.in_file(str(prefill if error.key.startswith("prefill") else decode)) from None


def _read_profile_json(path: Path) -> Profile:
    from pydantic import TypeAdapter, ValidationError  # the other layouts need none of it

    data = _read_bytes(path)
    found = _json_object(data, path).get("format")
    if found != FORMAT:
        message = f"{str(found)[:40]!r} is not a profile format this version reads"
        raise ProfileError(message, key="format", file=str(path), hint=f"it reads {FORMAT}: use the version that wrote the file, or profile again")
    try:
        return checked(TypeAdapter(Profile).validate_json(data, strict=True))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        raise ProfileError(f"{first['msg']}, found {str(first['input'])[:40]!r}", key=key, file=str(path), hint=_DAMAGED) from None
    except ProfileError as error:
        raise error.in_file(str(path)) from None


def _read_npz(path: Path) -> Arrays:
    data = _read_bytes(path)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
        if unpacked > MOST_BYTES:
            raise ProfileError(f"unpacks to {unpacked} bytes, {MOST_BYTES} at most are read", file=str(path), hint=_DAMAGED)
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return dict(arrays)
    except _UNREADABLE as error:
        raise ProfileError(f"not a readable .npz file ({_first_line(error)})", file=str(path), hint=_DAMAGED) from error


def _read_json(path: Path) -> Arrays:
    return _json_object(_read_bytes(path), path)


def _json_object(data: bytes, path: Path) -> dict[str, Any]:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ProfileError(f"not readable as JSON ({_first_line(error)})", file=str(path), hint=_DAMAGED) from error
    if not isinstance(document, dict):
        raise ProfileError("the top level is not an object", file=str(path), hint=_DAMAGED)
    return document


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)[:120]


def _read_bytes(path: Path) -> bytes:
    with path.open("rb") as file:
        data = file.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise ProfileError(f"larger than the {MOST_BYTES} bytes that are read", file=str(path), hint="this is no profile")
    return data


def _prefill_arrays(profile: Profile) -> dict[str, Any]:
    points = checked(profile).picked_prefill.points
    isl = _whole([point.isl_tokens for point in points])
    return dict(zip(PREFILL_KEYS, (isl, _column(points, "ttft_ms"), _column(points, "throughput_per_gpu")), strict=True))


def _decode_arrays(profile: Profile) -> dict[str, Any]:
    measurement = checked(profile).picked_decode
    fields = ("kv_usage", "context_tokens", "itl_ms", "throughput_per_gpu")
    arrays = {key: _column(measurement.points, field) for key, field in zip(DECODE_KEYS, fields, strict=True)}
    return {**arrays, MAX_KV_KEY: np.array([measurement.max_kv_tokens], dtype=np.int64)}


def _column(points: Sequence[Any], field: str) -> np.ndarray:
    return np.array([getattr(point, field) for point in points], dtype=np.float64)


def _whole(values: Sequence[float]) -> np.ndarray:
    """Prompt lengths as Dynamo stores them, int64; as they are when one is not whole (a mean of measured lengths)."""
    exact = np.array(values, dtype=np.float64)
    return exact.astype(np.int64) if (exact == np.rint(exact)).all() else exact


def _write(path: Path, data: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot make the directory {path.parent}: {error.strerror}", hint="choose another path") from error
    atomic.write_bytes(path, data)
