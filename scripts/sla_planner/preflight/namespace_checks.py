"""The namespace: what is installed in it, what it refuses, its volume, its secrets, pods that do not start."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any

from sla_planner.preflight.facts import Document, Facts, ProfileFacts, Unread, Use, Workload
from sla_planner.preflight.finding import Area, Check, Finding

STAGE_ACCOUNTS = ("planner", "profile-sweep", "inject-config", "download-results")
SHARED_PROFILE = "planner-profile-data"  # and, of a request, with its name behind it
HF_TOKEN, HF_SECRET = "HF_TOKEN", "hf-token-secret"
ENFORCE = "pod-security.kubernetes.io/enforce"
GPU_QUOTA = "requests.nvidia.com/gpu"
POD_MEMORY = Decimal(128 * 2**20)  # of the planner's pod: request and limit

PLACE = Check("namespace", Area.NAMESPACE)
INSTALLED = Check("installed", Area.NAMESPACE)
SECURITY = Check("pod-security", Area.NAMESPACE)
QUOTA = Check("quota", Area.NAMESPACE)
LIMITS = Check("limit-range", Area.NAMESPACE)
VOLUME = Check("volume", Area.NAMESPACE)
ACCESS_MODE = Check("volume-access-mode", Area.NAMESPACE)
SERVICE_ACCOUNTS = Check("service-accounts", Area.NAMESPACE)
PULL_SECRETS = Check("pull-secrets", Area.NAMESPACE)
SECRETS = Check("secrets", Area.NAMESPACE)
MODEL_TOKEN = Check("model-token", Area.NAMESPACE)
CONFIG_MAPS = Check("config-maps", Area.NAMESPACE)
PODS = Check("pods", Area.NAMESPACE)
REFUSED = Check("refused-pods", Area.NAMESPACE)


def measure_command(namespace: str) -> str:
    """What makes a profile."""
    return f"kubectl -n {namespace} create job sweep-1 --from=cronjob/profile-sweep    # what it measures: jobs/profile-sweep/README.md"


_REMEDIES = {  # by kind of a pod's trouble
    "image": "{kubectl} describe pod {pod}    # correct the image's name, or make the pull secret that its manifest names",
    "not placed": "{kubectl} describe pod {pod}    # the scheduler's words; give it a node, or ask for less",
    "in use": "{kubectl} describe pod {pod}    # wait, add a node, or lower --max-gpu-budget",
    "no container": "{kubectl} describe pod {pod}    # the Secret, ConfigMap or path that is missing; make it",
    "crash": "{kubectl} logs {pod} --previous",
}


def check_namespace(facts: Facts) -> Iterator[Finding]:
    """That it exists, and what Pod Security enforces in it."""
    name, document = facts.namespace.name, facts.namespace.document
    if document is None:
        yield PLACE.problem(f"there is no namespace {name}", "nothing can be installed or scaled in it", f"kubectl create namespace {name}")
    elif isinstance(document, Unread):
        yield SECURITY.unchecked("what Pod Security enforces here", document.because, f"kubectl get namespace {name} --show-labels")
    else:
        level = (document.get("metadata", {}).get("labels") or {}).get(ENFORCE, "")
        known = {"": "enforces no level", "privileged": "lets every pod in", "baseline": "enforces baseline", "restricted": "enforces restricted"}
        said = known.get(level, f"enforces {level}")
        engines = "; engines must keep to it" if level in ("baseline", "restricted") else ""
        yield SECURITY.ok(f"Pod Security {said}: all pods of SLA Planner keep to restricted{engines}")


def check_installed(facts: Facts) -> Iterator[Finding]:
    """The standing parts."""
    workloads, name = facts.namespace.workloads, facts.namespace.name
    if isinstance(workloads, Unread):
        yield INSTALLED.unchecked("what of SLA Planner is installed", workloads.because)
    elif not workloads:
        why = "accounts, rights, the volume and the CronJobs are missing; nothing below can work before"
        yield INSTALLED.warning(f"nothing of SLA Planner is installed in namespace {name}", why, f"kubectl apply -k . -n {name}")
    else:
        yield INSTALLED.ok(f"installed: {', '.join(f'{each.kind} {each.name}' for each in workloads)}")


def check_refused_pods(facts: Facts) -> Iterator[Finding]:
    """Events of the last hour: quota, Pod Security or a missing account kept a pod out."""
    refusals = facts.namespace.refusals
    if isinstance(refusals, Unread):
        yield REFUSED.unchecked("pods that were refused", refusals.because)
        return
    for each in refusals:
        yield REFUSED.problem(f"{each.of} gets no pod: {each.said}", "it waits for ever, and no pod shows it", _remedy(facts, each.said))
    if not refusals:
        yield REFUSED.ok("no pod was refused in the last hour")


def _remedy(facts: Facts, said: str) -> str:
    name = facts.namespace.name
    if "PodSecurity" in said:
        return f"kubectl label namespace {name} {ENFORCE}=baseline --overwrite    # or make the manifest keep to the level"
    if "exceeded quota" in said or "failed quota" in said:
        return f"{facts.kubectl} describe resourcequota    # raise it: {facts.kubectl} edit resourcequota NAME"
    if "serviceaccount" in said.lower():
        return f"kubectl apply -k . -n {name}    # makes the accounts"
    return f"{facts.kubectl} get events --field-selector reason=FailedCreate"


def check_quota(facts: Facts) -> Iterator[Finding]:
    """That it leaves room for the planner's pod and for one more worker."""
    quotas = facts.namespace.quotas
    if isinstance(quotas, Unread):
        yield QUOTA.unchecked("ResourceQuotas", quotas.because)
        return
    needs = {"pods": Decimal(1), "count/jobs.batch": Decimal(1), "requests.memory": POD_MEMORY, "limits.memory": POD_MEMORY}
    needs |= {GPU_QUOTA: Decimal(_gpus_of_a_worker(facts))}
    clean = True
    for quota in quotas:
        status = quota.get("status") or {}
        hard, used = status.get("hard") or (quota.get("spec") or {}).get("hard") or {}, status.get("used") or {}
        for resource, needed in needs.items():
            if resource in hard and quantity(hard[resource]) - quantity(used.get(resource, "0")) < needed:
                clean = False
                what = f"quota {_name(quota)} leaves too little {resource}: {used.get(resource, 0)} of {hard[resource]} are used"
                fix = f"{facts.kubectl} edit resourcequota {_name(quota)}    # raise {resource}"
                if resource == GPU_QUOTA:
                    yield QUOTA.warning(what, "the planner cannot scale up: the next worker is refused", fix)
                else:
                    yield QUOTA.problem(what, "the planner's own pod is refused, and so is the next worker", fix)
    if clean:
        yield QUOTA.ok("no quota is in the way" if quotas else "there is no quota")


def _gpus_of_a_worker(facts: Facts) -> int:
    """Of the largest one that is scaled, at least 1."""
    return max((role.gpus for target in facts.targets if isinstance(target.roles, tuple) for role in target.roles), default=0) or 1


def check_limit_ranges(facts: Facts) -> Iterator[Finding]:
    """That the planner's pod (128 MiB) is within them."""
    ranges = facts.namespace.limit_ranges
    if isinstance(ranges, Unread):
        yield LIMITS.unchecked("LimitRanges", ranges.because)
        return
    clean = True
    for found in ranges:
        for limit in (found.get("spec") or {}).get("limits") or ():
            least, most = quantity((limit.get("min") or {}).get("memory", "0")), quantity((limit.get("max") or {}).get("memory", "1Ei"))
            if limit.get("type") in ("Container", "Pod") and not least <= POD_MEMORY <= most:
                clean = False
                edge = f"at least {limit['min']['memory']}" if least > POD_MEMORY else f"at most {limit['max']['memory']}"
                why = "the planner's pod asks for 128Mi and is refused"
                fix = f"{facts.kubectl} edit limitrange {_name(found)}    # let 128Mi pass"
                yield LIMITS.problem(f"LimitRange {_name(found)} wants {edge} memory in a {limit['type'].lower()}", why, fix)
    if clean and ranges:
        yield LIMITS.ok("the LimitRanges let the planner's pod pass")


def check_volume(facts: Facts) -> Iterator[Finding]:
    """The claim that sweeps write to and planners read from. How large the volume is and how full, nobody tells without mounting it."""
    name, claim = facts.namespace.claim_name, facts.namespace.claim
    show = f"{facts.kubectl} describe pvc {name}"
    if isinstance(claim, Unread):
        yield VOLUME.unchecked(f"the volume {name}", claim.because)
        return
    if claim is None:
        why = "sweeps keep their results on it; pods that mount it stay Pending"
        fix = f"kubectl apply -k . -n {facts.namespace.name}    # makes it; or name another: sla-planner preflight --pvc NAME"
        yield VOLUME.problem(f"there is no PersistentVolumeClaim {name}", why, fix)
        return
    phase = (claim.get("status") or {}).get("phase", "Pending")
    capacity, asked = (claim.get("status") or {}).get("capacity") or {}, (claim["spec"].get("resources") or {}).get("requests") or {}
    size = capacity.get("storage") or asked.get("storage", "?")
    if phase == "Bound":
        yield VOLUME.ok(f"the volume {name} is bound, {size} (how full it is cannot be seen from here)")
    elif phase == "Lost":
        why = "its PersistentVolume is gone, and the results with it"
        yield VOLUME.problem(f"the volume {name} is lost", why, _again(facts, name))
    else:
        yield _pending(facts, claim, name, show)
    yield from _access_mode(facts, claim, name)


def _pending(facts: Facts, claim: Document, name: str, show: str) -> Finding:
    classes, wanted = facts.cluster.storage_classes, claim["spec"].get("storageClassName")
    if isinstance(classes, Unread):
        what = f"why the volume {name} is not bound; a class that waits for the first pod (WaitForFirstConsumer) is no fault"
        return VOLUME.unchecked(what, classes.because, show)
    why = "pods that mount it stay Pending"
    if wanted and wanted not in {each.name for each in classes}:
        known = ", ".join(each.name for each in classes) or "none"
        fix = (
            f"{facts.kubectl} delete pvc {name}\nkubectl apply -k YOUR_OVERLAY    # with pvc-storage-class (component storage-class) one of: {known}"
        )
        return VOLUME.problem(f"the volume {name} wants the storage class {wanted}, which does not exist", why, fix)
    if wanted is None and not any(each.default for each in classes):
        fix = "kubectl patch storageclass NAME -p " + """'{"metadata":{"annotations":{"storageclass.kubernetes.io/is-default-class":"true"}}}'"""
        return VOLUME.problem(f"the volume {name} names no storage class, and the cluster has no default one", why, fix)
    chosen = next((each for each in classes if each.name == wanted), next((each for each in classes if each.default), None))
    if chosen is not None and chosen.waits_for_pod:
        return VOLUME.ok(f"the volume {name} is made when the first pod mounts it (WaitForFirstConsumer)")
    return VOLUME.problem(f"the volume {name} is not bound", why, f"{show}    # its events say why")


def _again(facts: Facts, name: str) -> str:
    return f"{facts.kubectl} delete pvc {name}\nkubectl apply -k . -n {facts.namespace.name}"


def _access_mode(facts: Facts, claim: Document, name: str) -> Iterator[Finding]:
    modes = claim["spec"].get("accessModes") or []
    if "ReadWriteMany" in modes:
        yield ACCESS_MODE.ok(f"the volume {name} can be mounted on several nodes (ReadWriteMany)")
    elif "ReadWriteOnce" in modes:
        yield ACCESS_MODE.ok(f"the volume {name} can be mounted on one node at a time (ReadWriteOnce): pods that use it are placed together")
    else:
        read_only = modes == ["ReadOnlyMany"]
        why = "a sweep cannot write its results" if read_only else "a sweep, a planner and an access pod cannot have it at once"
        fix = _again(facts, name) + "    # with pvc-access-mode=ReadWriteOnce or ReadWriteMany in sla-params"
        finding = ACCESS_MODE.problem if read_only else ACCESS_MODE.warning
        yield finding(f"the volume {name} has the access mode {', '.join(modes) or 'none'}", why, fix)


def check_accounts(facts: Facts) -> Iterator[Finding]:
    """The ServiceAccounts that the pods of the stages run as."""
    accounts, workloads = facts.namespace.accounts, facts.namespace.workloads
    if isinstance(accounts, Unread):
        yield SERVICE_ACCOUNTS.unchecked("ServiceAccounts", accounts.because)
        return
    if isinstance(workloads, Unread) or not (workloads or facts.namespace.graph_planners):
        return
    needed = accounts_of((*workloads, *facts.namespace.graph_planners))
    missing = [name for name in needed if name not in accounts]
    for name in missing:
        fix = f"{facts.kubectl} create serviceaccount {name}"
        if name in STAGE_ACCOUNTS or name in {each.stage for each in workloads}:
            fix = f"{facts.kubectl} apply -f jobs/{name}/serviceaccount.yaml"
        yield SERVICE_ACCOUNTS.problem(f"there is no ServiceAccount {name}", "its Jobs make no pod, and only an Event says so", fix)
    if not missing:
        yield SERVICE_ACCOUNTS.ok(f"the ServiceAccounts are there: {', '.join(needed)}")


def accounts_of(workloads: Sequence[Workload]) -> tuple[str, ...]:
    """Those that the stages and `workloads` run as, but `default`, which Kubernetes makes itself."""
    return tuple(name for name in dict.fromkeys((*STAGE_ACCOUNTS, *(each.account for each in workloads))) if name != "default")


def check_secrets(facts: Facts) -> Iterator[Finding]:
    """Every Secret that a manifest names: for pulling images, for the model's download, for anything else."""
    for check, uses in (
        (PULL_SECRETS, [use for use in facts.namespace.secret_uses if use.pulls]),
        (MODEL_TOKEN, [use for use in facts.namespace.secret_uses if _is_token(use)]),
        (SECRETS, [use for use in facts.namespace.secret_uses if not use.pulls and not _is_token(use)]),
    ):
        yield from _held(facts, check, uses)


def _is_token(use: Use) -> bool:
    return not use.pulls and (use.key == HF_TOKEN or use.name == HF_SECRET)


def _held(facts: Facts, check: Check, uses: list[Use]) -> Iterator[Finding]:
    seen: set[tuple[str, str]] = set()
    clean = []
    for use in uses:
        if (use.name, use.key) in seen:
            continue
        seen.add((use.name, use.key))
        keys = facts.namespace.secrets.get(use.name)
        wanted = use.key or (HF_TOKEN if check is MODEL_TOKEN else "")
        if isinstance(keys, Unread):
            yield check.unchecked(f"the Secret {use.name}, which {use.by} names", keys.because, f"{facts.kubectl} get secret {use.name}")
        elif keys is None:
            yield _missing_secret(facts, check, use)
        elif wanted and wanted not in keys:
            fix = f'{facts.kubectl} patch secret {use.name} -p \'{{"stringData":{{"{wanted}":"VALUE"}}}}\''
            why = "its containers do not start (CreateContainerConfigError)" if use.key and not use.optional else "the model cannot be downloaded"
            yield check.problem(f"the Secret {use.name}, which {use.by} names, has no key {wanted}", why, fix)
        else:
            clean.append(use.name)
    if clean:
        yield check.ok(f"there: {', '.join(f'Secret {name}' for name in dict.fromkeys(clean))}")


def _missing_secret(facts: Facts, check: Check, use: Use) -> Finding:
    what = f"{use.by} names the Secret {use.name}, which is not there"
    make = f"{facts.kubectl} create secret"
    if use.pulls:
        fix = f"{make} docker-registry {use.name} --docker-server=REGISTRY --docker-username=USER --docker-password=PASSWORD"
        return check.problem(what, "images of a private registry cannot be pulled (ErrImagePull)", fix)
    if _is_token(use):
        fix = f"{make} generic {use.name} --from-literal={use.key or HF_TOKEN}=YOUR_TOKEN"
        if use.optional:
            return check.warning(what, "gated models cannot be downloaded; public ones can", fix)
        return check.problem(what, "the containers that need it do not start (CreateContainerConfigError)", fix)
    if use.optional:
        return check.ok(f"{use.by} can do without the Secret {use.name}, which is not there")
    fix = f"{make} generic {use.name} --from-literal={use.key or 'KEY'}=VALUE"
    return check.problem(what, "the containers that need it do not start (CreateContainerConfigError)", fix)


def check_config_maps(facts: Facts) -> Iterator[Finding]:
    """Those that our pods and those of graphs mount: a pod waits for a missing one without a word in its log."""
    known = []
    for use in facts.namespace.config_map_uses:
        keys = facts.namespace.config_maps.get(use.name)
        if isinstance(keys, Unread):
            yield CONFIG_MAPS.unchecked(f"the ConfigMap {use.name}, which {use.by} mounts", keys.because)
        elif keys is None:
            yield from _missing_config_map(facts, use)
        elif use.key and use.key not in keys and not use.optional:
            what = f"the ConfigMap {use.name}, which {use.by} names, has no key {use.key}"
            fix = f'{facts.kubectl} patch configmap {use.name} -p \'{{"data":{{"{use.key}":"VALUE"}}}}\''
            yield CONFIG_MAPS.problem(what, "its containers do not start (CreateContainerConfigError)", fix)
        else:
            known.append(use.name)
    if known:
        yield CONFIG_MAPS.ok(f"there: {', '.join(f'ConfigMap {name}' for name in dict.fromkeys(known))}")


def _missing_config_map(facts: Facts, use: Use) -> Iterator[Finding]:
    if use.optional and (use.name != SHARED_PROFILE or _profiles_are_elsewhere(facts)):
        return
    what = f"{use.by} mounts the ConfigMap {use.name}, which is not there"
    why, of_a_graph = "its pods stay in ContainerCreating and log nothing", use.by.startswith("DynamoGraphDeployment/")
    request = use.name.removeprefix(f"{SHARED_PROFILE}-")
    if use.name == SHARED_PROFILE:
        what = f"{use.by} mounts the profile from the ConfigMap {use.name}, which is not there yet"
        why, fix = "the planner needs a profile of the engine and ends without one", measure_command(facts.namespace.name)
        yield (CONFIG_MAPS.warning(what, why, fix) if use.optional else CONFIG_MAPS.problem(what, why, fix))
    elif of_a_graph and request != use.name:
        fix = f"kubectl get dgdr --all-namespaces    # {request} says why, it brings the profile; is it gone, delete the graph and make both anew"
        yield CONFIG_MAPS.problem(what, "its planner stays in ContainerCreating and logs nothing: nothing is scaled", fix)
    elif of_a_graph:
        fix = f"{facts.kubectl} create configmap {use.name} --from-{f'literal={use.key}=VALUE' if use.key else 'file=FILE'}"
        yield CONFIG_MAPS.problem(what, why, fix)
    else:
        yield CONFIG_MAPS.problem(what, why, f"kubectl apply -k . -n {facts.namespace.name}")


def _profiles_are_elsewhere(facts: Facts) -> bool:
    """Whether every target has its profile without that ConfigMap: on a volume, or the one that ships with the image."""
    return bool(facts.targets) and all(isinstance(target.profile, ProfileFacts) for target in facts.targets)


def check_pods(facts: Facts) -> Iterator[Finding]:
    """Pods of ours and of graphs that do not run."""
    troubles = facts.namespace.pod_troubles
    if isinstance(troubles, Unread):
        yield PODS.unchecked("pods that do not start", troubles.because)
        return
    workers = tuple(f"{role.name}-" for target in facts.targets if isinstance(target.roles, tuple) for role in target.roles)
    for each in troubles:
        what = f"pod {each.pod}: {each.what}"
        remedy = _REMEDIES.get(each.kind, "{kubectl} describe pod {pod}").format(kubectl=facts.kubectl, pod=each.pod)
        if each.known or each.pod.startswith(workers):
            yield PODS.problem(what, "it does not serve, and what waits for it waits for ever", remedy)
        else:
            yield PODS.warning(what, "it is none of SLA Planner's, as far as can be seen, but of this namespace", remedy)
    if not troubles:
        yield PODS.ok("no pod is in trouble")


_UNITS = {"k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15, "E": 10**18}
_UNITS |= {f"{unit[0]}i".replace("k", "K"): 1024**power for power, unit in enumerate(("k", "M", "G", "T", "P", "E"), start=1)}


def quantity(text: Any) -> Decimal:
    """A number of Kubernetes, `500m` or `1Gi`; 0 for what is none."""
    words = str(text)
    for unit, factor in sorted(_UNITS.items(), key=lambda item: -len(item[0])):
        if words.endswith(unit):
            return quantity(words.removesuffix(unit)) * factor
    if words.endswith("m"):
        return quantity(words.removesuffix("m")) / 1000
    try:
        return Decimal(words)
    except InvalidOperation:
        return Decimal(0)


def _name(document: Mapping[str, Any]) -> str:
    return str(document.get("metadata", {}).get("name", "?"))


CHECKS = (
    check_namespace,
    check_installed,
    check_accounts,
    check_volume,
    check_quota,
    check_limit_ranges,
    check_secrets,
    check_config_maps,
    check_refused_pods,
    check_pods,
)
