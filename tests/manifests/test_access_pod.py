"""The plain access pod: valid, restricted, of this version, ends by itself, mounts the volume that the base brings."""

from __future__ import annotations

import kubernetes_validate
import yaml
from tests.manifests.objects import ROOT, build, of_kind

import sla_planner

POD = yaml.safe_load((ROOT / "manifests/volume/pvc-access-pod.yaml").read_text())


def test_kubernetes_takes_it_where_pod_security_is_restricted():
    kubernetes_validate.validate(POD, "1.37", strict=True)
    spec, (container,) = POD["spec"], POD["spec"]["containers"]
    assert (spec["securityContext"]["runAsNonRoot"], spec["securityContext"]["seccompProfile"]) == (True, {"type": "RuntimeDefault"})
    assert container["securityContext"] == {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
    assert spec["automountServiceAccountToken"] is False
    assert spec["activeDeadlineSeconds"] == 3000


def test_it_is_of_this_version_and_mounts_the_volume_of_the_base():
    (container,), (volume,) = POD["spec"]["containers"], POD["spec"]["volumes"]
    assert container["image"] == f"sla-planner/volume-tools:{sla_planner.__version__}"
    assert POD["metadata"]["labels"]["app.kubernetes.io/version"] == sla_planner.__version__
    assert volume["persistentVolumeClaim"]["claimName"] in of_kind(build(ROOT), "PersistentVolumeClaim")
    assert container["volumeMounts"] == [{"name": volume["name"], "mountPath": "/data"}]
