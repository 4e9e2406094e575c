"""A configuration file: one YAML mapping, read strictly (duplicate keys are errors; YAML itself would silently keep the last)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from sla_planner.errors import UsageError

# What PyYAML raises, beside its own errors, for explicit tags on values that do not fit them (`!!int ""`), for digits beyond Python's limit, and for
# nesting beyond the stack.
_CONSTRUCTION_ERRORS = (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError)


class _StrictLoader(yaml.SafeLoader):
    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.composer.ComposerError(None, None, f"duplicate key {key.value!r}", key.start_mark)
                seen.add(key.value)
        return node


def read_mapping(path: Path) -> dict[Any, Any]:
    """The mapping in `path`; an empty file is an empty mapping. Raises `UsageError`, one line with the file and, where known, the line."""
    document = _parsed(path, _text(path))
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise UsageError(f"file {path}: {type(document).__name__} at the top level", hint="write `key: value` lines")
    return document


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"file {path}: byte {error.start} is not UTF-8", hint="save the file as UTF-8") from None
    except OSError as error:
        raise UsageError(f"file {path}: {error.strerror}", hint="check the path and its permissions") from None
    except ValueError as error:
        raise UsageError(f"file {str(path)!r}: {error}", hint="check the path") from None


def _parsed(path: Path, text: str) -> Any:
    try:
        return yaml.load(text, Loader=_StrictLoader)  # a SafeLoader: constructs plain data only
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f"line {mark.line + 1}: " if mark else ""
        raise UsageError(f"file {path}: {line}{error.problem or error.context}", hint="correct the YAML") from None
    except yaml.YAMLError as error:
        raise UsageError(f"file {path}: {' '.join(str(error).split())}", hint="correct the YAML") from None
    except _CONSTRUCTION_ERRORS as error:
        raise UsageError(f"file {path}: not readable as YAML ({type(error).__name__})", hint="correct the YAML") from None
