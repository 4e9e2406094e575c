"""Rights, verb by verb: of the ServiceAccounts that the stages run as, and of whoever runs this."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from sla_planner.preflight.cluster_checks import RECONCILER, REQUEST_CLASS
from sla_planner.preflight.facts import Facts, Unread
from sla_planner.preflight.finding import Area, Check, Finding
from sla_planner.preflight.rights import Right

OWN = Check("own-rights", Area.RIGHTS)
ELSEWHERE = Check("rights-elsewhere", Area.RIGHTS)
VIEW = Check("view-of-reconcile-requests", Area.RIGHTS)


def check_accounts_rights(facts: Facts) -> Iterator[Finding]:
    """Of the stages that call the API."""
    for account, granted in facts.rights.accounts.items():
        check = Check(f"rights-of-{_stage_of(account)}", Area.RIGHTS)
        if isinstance(granted, Unread):
            command = f"kubectl auth can-i --list --as=system:serviceaccount:{facts.namespace.name}:{account} -n {facts.namespace.name}"
            yield check.unchecked(f"what the ServiceAccount {account} may do", granted.because, command)
            continue
        missing = [right for right, allowed in granted.items() if not allowed]
        if account == "profile-sweep" and facts.rights.sweep_ways:
            lacking = [[right for right, allowed in way.items() if not allowed] for way in facts.rights.sweep_ways]
            missing += sorted(lacking, key=len)[0]
        if not missing:
            yield check.ok(f"the ServiceAccount {account} may do what its stage does ({len(granted)} rights asked for one by one)")
        elif len(missing) >= len(granted):
            what = f"the ServiceAccount {account} may do nothing of what its stage does"
            yield check.problem(what, "its Role is not bound to it: every call is refused with 403", _bind(facts, account))
        else:
            what = f"the ServiceAccount {account} may not {in_words(missing)}"
            yield check.problem(what, "those calls are refused with 403", _grant(facts, account, missing))


def check_reconciler_view(facts: Facts) -> Iterator[Finding]:
    """Of the cluster; who works on requests goes on without, and knows less."""
    seen = facts.rights.reconciler_view
    if seen is None:
        return
    if isinstance(seen, Unread):
        yield VIEW.unchecked(f"what the ServiceAccount {RECONCILER} may see of the cluster", seen.because)
        return
    missing = [right for right, allowed in seen.items() if not allowed]
    if not missing:
        yield VIEW.ok(f"the ServiceAccount {RECONCILER} may see the nodes and whose the definition of requests is")
        return
    losses = {
        "customresourcedefinitions": f"only requests with the annotation {REQUEST_CLASS} are taken",
        "nodes": "GPUs that a request does not name are not found out, and one that fits no node is noticed after its Job has begun",
    }
    why = "; ".join(losses[right.plural] for right in missing)
    fix = "kubectl apply -k YOUR_OVERLAY    # with the component manifests/components/deployment-requests-cluster"
    yield VIEW.warning(f"the ServiceAccount {RECONCILER} may not {in_words(missing)}", why, fix)


def check_deployed_into(facts: Facts) -> Iterator[Finding]:
    """Other namespaces, where an administrator has to grant what the reconciler needs."""
    places = facts.namespace.deployed_into
    if isinstance(places, Unread):
        yield ELSEWHERE.unchecked("into which other namespaces requests are deployed", places.because)
    for each in facts.rights.deployed_into:
        there = each.namespace
        if isinstance(each.granted, Unread):
            yield ELSEWHERE.unchecked(f"what the ServiceAccount {RECONCILER} may do in namespace {there}", each.granted.because)
            continue
        missing = [right for right, allowed in each.granted.items() if not allowed]
        if missing:
            what = f"the ServiceAccount {RECONCILER} may not {in_words(missing)} in namespace {there}, into which requests are deployed"
            yield ELSEWHERE.problem(what, "they wait (Pending, RightsMissing), or their deployment has no profile", each.grant)
        else:
            yield ELSEWHERE.ok(f"the ServiceAccount {RECONCILER} may deploy into namespace {there}")


def check_own(facts: Facts) -> Iterator[Finding]:
    """Files go to and from the volume with the rights of the person who sends them."""
    granted = facts.rights.own
    if granted is None:
        return
    if isinstance(granted, Unread):
        yield OWN.unchecked("what you may do", granted.because, f"kubectl auth can-i --list -n {facts.namespace.name}")
        return
    missing = [right for right, allowed in granted.items() if not allowed]
    if missing:
        why = "`sla-planner inject-config` and `download-results` work through a pod that they make with your rights"
        fix = f"{facts.kubectl} create rolebinding NAME --role=volume-access --user=YOU    # the Role is in manifests/components/volume-access"
        yield OWN.warning(f"you may not {in_words(missing)}", why, fix)
    else:
        yield OWN.ok("you may send files to the volume and fetch results from it")


def in_words(rights: Iterable[Right]) -> str:
    """`get and patch deployments.apps/scale prefill, list pods`"""
    by_what: dict[str, list[str]] = {}
    for right in rights:
        by_what.setdefault(right.what, []).append(right.verb)
    return ", ".join(f"{' and '.join(verbs)} {what}" for what, verbs in by_what.items())


def _stage_of(account: str) -> str:
    """A planner of a graph may have an account of another name."""
    return account if account in ("profile-sweep", RECONCILER) else "planner"


def _bind(facts: Facts, account: str) -> str:
    stage = _stage_of(account)
    if account == stage:
        return f"{facts.kubectl} apply -f jobs/{stage}/role.yaml -f jobs/{stage}/rolebinding.yaml"
    bound = f"--role={stage} --serviceaccount={facts.namespace.name}:{account}"
    return f"{facts.kubectl} apply -f jobs/{stage}/role.yaml\n{facts.kubectl} create rolebinding {account} {bound}"


def _grant(facts: Facts, account: str, missing: Iterable[Right]) -> str:
    """A Role beside ours, with exactly what is missing; one command per kind of object."""
    by_what: dict[tuple[str, str], list[str]] = {}
    for right in missing:
        resource = right.what.partition(" ")[0]
        by_what.setdefault((resource, right.name), []).append(right.verb)
    commands = []
    for number, ((resource, name), verbs) in enumerate(by_what.items(), start=1):
        role = f"{account}-more-{number}"
        named = f" --resource-name={name}" if name and "create" not in verbs and "list" not in verbs else ""
        commands.append(f"{facts.kubectl} create role {role} --verb={','.join(verbs)} --resource={resource}{named}")
        commands.append(f"{facts.kubectl} create rolebinding {role} --role={role} --serviceaccount={facts.namespace.name}:{account}")
    commands.append("# for good, the component that grants it (manifests/README.md); or the Role again:")
    commands += [f"# {command}" for command in _bind(facts, account).splitlines()]
    return "\n".join(commands)


CHECKS = (check_accounts_rights, check_reconciler_view, check_deployed_into, check_own)
