"""Plays the cluster's part in the life of Jobs: makes their pods, lets states happen to them, removes them with their Jobs."""

from __future__ import annotations

import threading

from tests.cluster.api_stand_in import ApiStandIn


class Controller(threading.Thread):
    """Makes the pod of each Job and lets `states` happen to it; removes pods of Jobs that are gone."""

    def __init__(self, cluster: ApiStandIn, *states):
        super().__init__(daemon=True)
        self.cluster, self.states, self.jobs = cluster, states, []
        self._over = False

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_error):
        self._over = True
        with self.cluster.changed:
            self.cluster.changed.notify_all()
        self.join()

    def run(self):
        while not self._over:
            self.cluster.wait(lambda: self._over or self._new() or self._orphans())
            for name in self._orphans():
                self.cluster.drop("pods", f"{name}-abcde")
                self.jobs.remove(name)
            for name in self._new():
                self.jobs.append(name)
                self._make(self.cluster.get("jobs", name))

    def _new(self):
        return [] if self.states == () else [name for name in self.cluster.names("jobs") if name not in self.jobs and not name.startswith("old")]

    def _orphans(self):
        return [name for name in self.jobs if name not in self.cluster.names("jobs")]

    def _make(self, job):
        template = job["spec"]["template"]
        name = f"{job['metadata']['name']}-abcde"
        for state in self.states:
            pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, **template["metadata"]}, "spec": template["spec"], "status": state}
            self.cluster.put(pod)


def container(state):
    return {"phase": "Pending", "containerStatuses": [{"name": "volume", "image": "reg/x:1", "state": state, "restartCount": 0, "ready": False}]}


CREATING = container({"waiting": {"reason": "ContainerCreating"}})
RUNNING = container({"running": {}}) | {"phase": "Running"}
