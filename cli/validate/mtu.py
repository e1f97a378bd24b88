"""The MTU along the path to each peer: do packets of full size arrive?"""

from collections.abc import Iterable, Iterator, Mapping

from cli.validate.echo import Answers, Target, ask
from cli.validate.findings import Finding, not_applicable, or_ok, problem, warning
from cli.validate.node import Facts
from linux.rtnl.vxlan import overhead
from plugins.node.mtu import pod_mtu

_MOST, _SECONDS = 16, 2


def check(facts: Facts) -> Iterable[Finding]:
    """What pods send to other nodes' pods fits."""
    paths = facts.peers.paths
    if not paths:
        return [not_applicable("there are no peers")]
    if facts.vtep:
        device = facts.link(facts.vtep.name)
        mtu = device.mtu if device else facts.vtep.mtu
    else:
        mtu = pod_mtu(facts.host, facts.pods.node)
    sizes = {path.underlay or path.via: mtu + (overhead(path.underlay) if path.underlay else 0) for path in paths}
    sizes = dict(list(sizes.items())[:_MOST])
    answers = ask([target for pair in sizes.items() for target in _pair(*pair)], seconds=_SECONDS)
    largest = max(sizes.values())
    return or_ok(
        judge(sizes, answers, mtu), f"packets of {largest} bytes reach {', '.join(sizes)} (of {len(paths)} paths)"
    )


def _pair(address: str, size: int) -> tuple[Target, Target]:
    return Target(address), Target(address, size)


def judge(sizes: Mapping[str, int], answers: Answers, mtu: int) -> Iterator[Finding]:
    """`sizes`: by address of a peer, the largest packet that is sent there, in bytes. `mtu`: of pods."""
    for address, size in sizes.items():
        small, large = _pair(address, size)
        if large in answers.answered:
            continue
        if large in answers.limits:
            fits = answers.limits[large]
            most = f"only {fits}" if fits else "less"
            mend = (
                f'set "mtu": {mtu - (size - fits)} for pods, on all nodes' if fits else 'set a smaller "mtu" for pods'
            )
            yield problem(f"packets to {address} have up to {size} bytes, but {most} fit on the way", mend)
        elif small in answers.answered:
            found = f"{address} answers echo requests, but not those of {size} bytes, which packets of pods have"
            yield problem(found, f'set a smaller "mtu" than {mtu} for pods on all nodes, or mend the network between')
        else:
            yield warning(f"could not be told for {address}: it does not answer echo requests")
