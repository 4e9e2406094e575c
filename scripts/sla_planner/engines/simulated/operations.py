"""What every process of a simulated engine has beside its work: /health, /metrics, and /sim/* for whoever runs the simulation."""

from __future__ import annotations

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from sla_planner.engines.simulated.api import ApiError
from sla_planner.engines.simulated.exposition import Exposition
from sla_planner.engines.simulated.faults import FaultInjector, parse_fault
from sla_planner.engines.simulated.routing import Routing
from sla_planner.errors import UsageError


class Operations:
    """/health is 503 while no request could be worked on: while a worker starts, and from the beginning of its drain."""

    def __init__(self, routing: Routing, faults: FaultInjector, exposition: Exposition) -> None:
        self._routing = routing
        self._faults = faults
        self._exposition = exposition

    def add_routes(self, app: web.Application) -> None:
        app.router.add_get("/health", self._health)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/sim/state", self._state)
        app.router.add_post("/sim/faults", self._fault)

    async def _health(self, _: web.Request) -> web.Response:
        serves = self._routing.serves()
        return web.json_response({"status": "healthy" if serves else "no worker is ready"}, status=200 if serves else 503)

    async def _metrics(self, _: web.Request) -> web.Response:
        if self._faults.metrics_gone:
            raise ApiError(503, "metrics are gone, as a fault asked", "service_unavailable")
        return web.Response(body=self._exposition.text(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _state(self, _: web.Request) -> web.Response:
        return web.json_response(self._routing.describe() | {"metrics_gone": self._faults.metrics_gone})

    async def _fault(self, http: web.Request) -> web.Response:
        try:
            struck = self._faults.inject(parse_fault(await http.read()))
        except UsageError as error:
            raise ApiError(422, str(error)) from None
        return web.json_response({"struck": struck})
