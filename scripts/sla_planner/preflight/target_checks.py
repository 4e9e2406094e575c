"""What is scaled: that it is there, that nobody else sets its counts, that the profile is one of these workers."""

from __future__ import annotations

from collections.abc import Iterator

from sla_planner.preflight.facts import Document, Documents, Facts, ProfileFacts, RoleFacts, TargetFacts, Unread, Wrong
from sla_planner.preflight.finding import Area, Check, Finding
from sla_planner.preflight.namespace_checks import measure_command

OURS = "sla-planner"
GITOPS = ("argocd", "argo-cd", "flux", "kustomize-controller", "helm-controller")
AUTOSCALERS = {"kube-controller-manager": "a HorizontalPodAutoscaler", "keda-operator": "KEDA", "vpa-updater": "a VerticalPodAutoscaler"}

_TWO_WRITERS = "two write the same count, and undo each other every few seconds"
_ANOTHER_ENGINE = "the planner would size the fleet by the speed of another engine"

ROLES = Check("targets", Area.TARGET)
PAUSED = Check("paused", Area.TARGET)
AUTOSCALED = Check("other-autoscaler", Area.TARGET)
GIT = Check("gitops", Area.TARGET)
WRITER = Check("other-writer", Area.TARGET)
PROFILE = Check("profile", Area.TARGET)
MAPPING = Check("profile-mapping", Area.TARGET)
PARALLEL = Check("tensor-parallel", Area.TARGET)
PROFILED_MODEL = Check("profile-model", Area.TARGET)


def check_targets(facts: Facts) -> Iterator[Finding]:
    """Target by target."""
    for target in facts.targets:
        yield from _roles(facts, target)
        if isinstance(target.roles, tuple):
            yield from _paused(target, target.roles)
            yield from _autoscaled(facts, target, target.roles)
            yield from _owned(facts, target, target.roles)
        yield from _profile(target)


def _kubectl(target: TargetFacts) -> str:
    return f"kubectl -n {target.namespace}"


def _roles(facts: Facts, target: TargetFacts) -> Iterator[Finding]:
    roles = target.roles
    if isinstance(roles, Unread):
        yield ROLES.unchecked(f"target {target.name}: what it scales", roles.because)
    elif isinstance(roles, Wrong):
        kind = "dynamographdeployments" if target.graph else "deployments,statefulsets"
        fix = f"{_kubectl(target)} get {kind}    # which ones there are" + (f"\n# {roles.hint}" if roles.hint else "")
        yield ROLES.problem(f"target {target.name}: {roles.what}", "there is nothing whose count the planner could set", fix)
    elif roles:
        counts = ", ".join(f"{role.role} {role.replicas} ({role.holder})" for role in roles)
        yield ROLES.ok(f"target {target.name}: {counts}")
    elif not facts.planner.settings:
        yield ROLES.ok(f"target {target.name}: nothing in this cluster is scaled")


def _paused(target: TargetFacts, roles: tuple[RoleFacts, ...]) -> Iterator[Finding]:
    for holder in dict.fromkeys(role.paused_by for role in roles if role.paused_by):
        kind, _, name = holder.partition("/")
        what = f"target {target.name}: {holder} carries the annotation slaplanner.io/paused"
        fix = f"{_kubectl(target)} annotate {kind.lower()} {name} slaplanner.io/paused-"
        yield PAUSED.warning(what, "the planner watches and changes nothing", fix)
    if roles and not any(role.paused_by for role in roles):
        yield PAUSED.ok(f"target {target.name}: nobody asked for hands off")


def _autoscaled(facts: Facts, target: TargetFacts, roles: tuple[RoleFacts, ...]) -> Iterator[Finding]:
    place = facts.namespace
    rivals = (("HorizontalPodAutoscaler", "hpa", place.autoscalers), ("KEDA ScaledObject", "scaledobject", place.scaled_objects))
    found = False
    for kind, short, documents in rivals:
        if isinstance(documents, Unread):
            yield AUTOSCALED.unchecked(f"target {target.name}: whether a {kind} scales it too", documents.because)
            continue
        for each, role in _scaling(documents, roles):
            if kind.startswith("Horizontal") and _of_scaled_object(each):
                continue  # the ScaledObject is told of
            found = True
            name = each["metadata"]["name"]
            what = f"target {target.name}: {kind} {name} scales {role.holder} as well"
            yield AUTOSCALED.problem(what, _TWO_WRITERS, f"{facts.kubectl} delete {short} {name}")
    if roles and not found and not any(isinstance(documents, Unread) for _, _, documents in rivals):
        yield AUTOSCALED.ok(f"target {target.name}: no other autoscaler is on it")


def _scaling(documents: Documents, roles: tuple[RoleFacts, ...]) -> Iterator[tuple[Document, RoleFacts]]:
    for each in documents if isinstance(documents, tuple) else ():
        reference = (each.get("spec") or {}).get("scaleTargetRef") or {}
        for role in roles:
            if (reference.get("kind", "Deployment"), reference.get("name")) in ((role.kind, role.name), ("Deployment", role.made)):
                yield each, role
                break


def _of_scaled_object(autoscaler: Document) -> bool:
    return any(owner.get("kind") == "ScaledObject" for owner in autoscaler["metadata"].get("ownerReferences") or ())


def _owned(facts: Facts, target: TargetFacts, roles: tuple[RoleFacts, ...]) -> Iterator[Finding]:
    """By the field managers of the counts."""
    told = False
    for role in roles:
        git = next((owner for owner in role.owners if owner.startswith(GITOPS)), "")
        scaler = next((AUTOSCALERS[owner] for owner in role.owners if owner in AUTOSCALERS), "")
        others = [owner for owner in role.owners if owner != OURS]
        if git:
            told = True
            what = f"target {target.name}: {git} holds the replicas of {role.holder}: they stand in Git"
            why = "every sync puts back the count that Git says"
            fix = (
                f"{_kubectl(target)} get {role.holder} --show-managed-fields -o yaml    # then leave `replicas` out of its manifest in Git,\n"
                "# or let Argo CD ignore it (ignoreDifferences and RespectIgnoreDifferences=true, as in manifests/overlays/argocd/application.yaml)"
            )
            yield GIT.problem(what, why, fix)
        elif scaler:
            told = True
            what = f"target {target.name}: the replicas of {role.holder} were last set by {scaler} ({', '.join(others)})"
            yield AUTOSCALED.problem(what, _TWO_WRITERS, f"{facts.kubectl} get hpa    # and scaledobject; delete the one that scales it")
        elif role.role in target.last_scaled and others and OURS not in role.owners:
            told = True
            what = f"target {target.name}: {others[-1]} has set the replicas of {role.holder} since the planner did"
            why = "whoever it was may do it again: the planner gives way for an interval each time"
            yield WRITER.warning(what, why, f"{_kubectl(target)} get {role.holder} --show-managed-fields -o yaml    # who, and when")
    if roles and not told:
        yield WRITER.ok(f"target {target.name}: nobody else holds its counts")


def _profile(target: TargetFacts) -> Iterator[Finding]:
    profile = target.profile
    measure = measure_command(target.namespace)
    if profile is None:
        return
    if isinstance(profile, Unread):
        yield PROFILE.unchecked(f"target {target.name}: its profile", profile.because)
        return
    if isinstance(profile, Wrong):
        what = f"target {target.name}: the profile {profile.what}"
        yield PROFILE.problem(what, "the planner does not start without one", measure + (f"\n# {profile.hint}" if profile.hint else ""))
        return
    yield PROFILE.ok(f"target {target.name}: a profile of {profile.model or 'an unnamed model'} in {profile.place}")
    if isinstance(target.roles, tuple):
        for role in target.roles:
            yield from _compared(target, role, profile, measure)


def _compared(target: TargetFacts, role: RoleFacts, profile: ProfileFacts, measure: str) -> Iterator[Finding]:
    gpus, tp = (profile.prefill_gpus, profile.prefill_tp) if role.role == "prefill" else (profile.decode_gpus, profile.decode_tp)
    edit = f"{_kubectl(target)} edit {role.holder}"
    if broken := bool(role.gpus and role.tp and role.gpus % role.tp):
        what = f"target {target.name}: a {role.role} worker of {role.holder} is started with TP {role.tp} and has {role.gpus} GPU{plural(role.gpus)}"
        yield PARALLEL.problem(what, "the engine does not start, or leaves GPUs idle", f"{edit}    # make the two agree")
    if role.gpus and role.gpus != gpus:
        what = f"target {target.name}: a {role.role} worker of {role.holder} has {role.gpus} GPU{plural(role.gpus)}, the profile's pick has {gpus}"
        yield MAPPING.problem(what, _ANOTHER_ENGINE, f"{measure}\n# or deploy the engine that was measured: {edit}")
    elif role.tp and role.tp != tp and not broken:
        what = f"target {target.name}: a {role.role} worker of {role.holder} is started with TP {role.tp}, the profile's pick is TP {tp}"
        yield MAPPING.problem(what, _ANOTHER_ENGINE, f"{measure}\n# or deploy the engine that was measured: {edit}")
    elif role.gpus and not broken:
        yield MAPPING.ok(f"target {target.name}: {role.role} workers have the profile's {gpus} GPU{plural(gpus)}")
    if role.model and profile.model and not _same_model(role.model, profile.model):
        what = f"target {target.name}: {role.holder} serves {role.model} for {role.role}, the profile is of {profile.model}"
        yield PROFILED_MODEL.problem(what, _ANOTHER_ENGINE, measure)


def plural(count: int) -> str:
    return "" if count == 1 else "s"


def _same_model(served: str, profiled: str) -> bool:
    """Paths and organisations differ from place to place; the last part is the model's."""
    return served.rstrip("/").rpartition("/")[2].casefold() == profiled.rstrip("/").rpartition("/")[2].casefold()


CHECKS = (check_targets,)
