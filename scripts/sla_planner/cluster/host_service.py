"""From a Service to the URL of the server behind it, as a pod of the same cluster reaches it.

By its address, which needs no name to be resolved; by name where it has none (headless, external). The port: the one that was asked for, else the one
called `http` (or `http-…`), the only one, 8000 among several, else the first.
"""

from __future__ import annotations

from collections.abc import Sequence

from sla_planner.cluster.resources import Object

_USUAL = 8000


def url_of(service: Object, namespace: str, port: int | None) -> str:
    """'' for a Service that has no address yet."""
    spec, name = service.get("spec") or {}, service["metadata"]["name"]
    at = port or _port(spec.get("ports") or ())
    address_of = spec.get("clusterIP", "")
    if spec.get("type") == "ExternalName" or address_of == "None":
        return f"http://{name}.{namespace}.svc:{at}"
    return address(address_of, at) if address_of else ""


def address(ip: str, port: int) -> str:
    return f"http://[{ip}]:{port}" if ":" in ip else f"http://{ip}:{port}"


def _port(ports: Sequence[Object]) -> int:
    named = [one for one in ports if str(one.get("name", "")).startswith("http")]
    usual = [one for one in ports if one.get("port") == _USUAL]
    meant = [*named, *usual] if len(ports) > 1 else ports
    return int((meant or ports)[0]["port"]) if ports else _USUAL
