"""The checks, in the order in which they are made; docs/validate.md has a row for each."""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module

from cli.validate.findings import Finding, warning
from cli.validate.node import Facts
from spec.errors import as_cni_error


@dataclass(frozen=True)
class Check:
    """`looks_at`: what it looks at. `function`: module of cli.validate and function, which takes Facts."""

    name: str
    looks_at: str
    function: str

    def made(self, facts: Facts) -> Iterator[Finding]:
        """What it finds; if it cannot look, that is a warning."""
        module, _, function = self.function.partition(".")
        try:
            yield from getattr(import_module(f"cli.validate.{module}"), function)(facts)
        except Exception as error:  # noqa: BLE001  (a bug in one check must not prevent the others)
            yield warning(f"could not be looked at: {error if isinstance(error, OSError) else as_cni_error(error)}")


CHECKS = (
    Check("runtime", "container runtimes, their configuration and sockets", "runtime.check_runtimes"),
    Check(
        "network", "the network files of the runtime's folder, in the order of their names", "runtime.check_networks"
    ),
    Check("version", "cniVersion and cniVersions of the network, and what the runtime reads", "runtime.check_version"),
    Check("executables", "each plugin of the network in the runtime's folders, and its VERSION", "executables.check"),
    Check("status", "what STATUS of each plugin says of the network", "executables.check_status"),
    Check("services", "the agent and the daemon: systemd, sockets, /healthz and /readyz", "services.check"),
    Check("log", "the last hour's journal of runtimes and kubelet, and the agent's last errors", "services.check_log"),
    Check("DNS pods", "what the kubelet has logged of the cluster's DNS pods, in /var/log/pods", "services.check_dns"),
    Check("kernel", "what the network needs of the kernel, tried in an empty network namespace", "kernel.check"),
    Check("forwarding", "ip_forward, forwarding and disable_ipv6 of the links concerned", "forwarding.check"),
    Check("bridged packets", "kube-proxy's rules and net.bridge.bridge-nf-call-*", "forwarding.check_bridged"),
    Check("reverse path", "rp_filter of the links by which other nodes' pods come in", "forwarding.check_reverse_path"),
    Check("advertisements", "accept_ra of links with default routes of IPv6", "forwarding.check_advertisements"),
    Check("firewall", "what forwards packets in nftables, iptables, firewalld and ufw", "firewalls.check"),
    Check("ranges", "networks of pods, links, routes, services and other network files", "ranges.check"),
    Check("peers", "the records of the other nodes", "peers.check"),
    Check("tunnel", "vxlan devices and sockets with the tunnel's VNI and UDP port", "tunnel.check"),
    Check("path MTU", "echo requests of full size to the other nodes' addresses", "mtu.check"),
    Check("leftovers", "what other network providers leave on a node", "leftovers.check"),
    Check("clock", "whether the kernel's clock is synchronised", "clock.check"),
)

TRIAL = Check("trial", "two scratch pods: ADD, CHECK, echo requests, DEL, and what is left", "trial.check")
