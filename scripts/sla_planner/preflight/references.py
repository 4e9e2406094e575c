"""Which Secrets and ConfigMaps a manifest names, wherever in it: pods of all kinds, and the services of a DynamoGraphDeployment.

    Secrets       imagePullSecrets, secretKeyRef, secretRef, volumes' secret.secretName, a graph's envFromSecret
    ConfigMaps    configMapKeyRef, configMapRef, volumes' configMap.name

Nothing waits for what is `optional: true`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from sla_planner.preflight.facts import Use


def secrets_named(document: Any, by: str) -> tuple[Use, ...]:
    return tuple(dict.fromkeys(_secrets(document, by)))


def config_maps_named(document: Any, by: str) -> tuple[Use, ...]:
    return tuple(dict.fromkeys(_config_maps(document, by)))


def _secrets(document: Any, by: str) -> Iterator[Use]:
    for key, value in _entries(document):
        if key == "imagePullSecrets" and isinstance(value, list):
            yield from (Use(str(each["name"]), by, pulls=True) for each in value if isinstance(each, Mapping) and each.get("name"))
        elif key == "envFromSecret" and isinstance(value, str):
            yield Use(value, by)
        elif key in ("secretKeyRef", "secretRef") and _names(value, "name"):
            yield Use(str(value["name"]), by, key=str(value.get("key", "")), optional=value.get("optional") is True)
        elif key == "secret" and _names(value, "secretName"):
            yield Use(str(value["secretName"]), by, optional=value.get("optional") is True)


def _config_maps(document: Any, by: str) -> Iterator[Use]:
    for key, value in _entries(document):
        if key in ("configMap", "configMapRef", "configMapKeyRef") and _names(value, "name"):
            yield Use(str(value["name"]), by, key=str(value.get("key", "")), optional=value.get("optional") is True)


def _entries(document: Any) -> Iterator[tuple[str, Any]]:
    """Every key of every mapping inside."""
    if isinstance(document, Mapping):
        for key, value in document.items():
            yield str(key), value
            yield from _entries(value)
    elif isinstance(document, list):
        for each in document:
            yield from _entries(each)


def _names(value: Any, key: str) -> bool:
    return isinstance(value, Mapping) and bool(value.get(key))
