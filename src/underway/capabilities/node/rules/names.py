"""How names resolve inside a pod: hostname, /etc/hosts and /etc/resolv.conf.

Source: Kubernetes documentation "DNS for Services and Pods", "Adding entries to Pod /etc/hosts".
"""

from __future__ import annotations

from underway.api.objects import Object, name_of, namespace_of

_HOSTNAME_LIMIT = 63
_SEARCH_LIMIT = 32


def hostname(pod: Object, machine_name: str) -> str:
    """The pod's host name."""
    spec = pod.get("spec") or {}
    if spec.get("hostNetwork"):
        return machine_name
    return (spec.get("hostname") or name_of(pod))[:_HOSTNAME_LIMIT].rstrip("-.")


def fqdn(pod: Object, machine_name: str, domain: str) -> str:
    """``hostname.subdomain.namespace.svc.domain`` for pods with a subdomain, else empty."""
    subdomain = (pod.get("spec") or {}).get("subdomain")
    if not subdomain:
        return ""
    return f"{hostname(pod, machine_name)}.{subdomain}.{namespace_of(pod)}.svc.{domain}"


def hosts_file(pod: Object, ip: str, machine_name: str, domain: str, machine_hosts: str) -> str:
    """``/etc/hosts`` of a pod; on the host's network it begins with the machine's own."""
    spec = pod.get("spec") or {}
    if spec.get("hostNetwork"):
        lines = [machine_hosts.rstrip("\n")]
    else:
        names = [n for n in (fqdn(pod, machine_name, domain), hostname(pod, machine_name)) if n]
        lines = [
            "# Kubernetes-managed hosts file.",
            "127.0.0.1\tlocalhost",
            "::1\tlocalhost ip6-localhost ip6-loopback",
            "fe00::0\tip6-localnet",
            "fe00::0\tip6-mcastprefix",
            "fe00::1\tip6-allnodes",
            "fe00::2\tip6-allrouters",
            "\t".join([ip, *names]),
        ]
    if aliases := spec.get("hostAliases"):
        lines += ["", "# Entries added by HostAliases."]
        lines += ["\t".join([a["ip"], *(a.get("hostnames") or ())]) for a in aliases]
    return "\n".join(lines) + "\n"


def resolv_conf(pod: Object, cluster_dns: str, domain: str, machine_resolv: str) -> str:
    """``/etc/resolv.conf`` of a pod, following ``dnsPolicy`` and ``dnsConfig``."""
    spec = pod.get("spec") or {}
    policy = spec.get("dnsPolicy") or "ClusterFirst"
    if policy == "ClusterFirst" and spec.get("hostNetwork"):
        policy = "Default"
    servers, searches, options = [], [], []
    if policy in ("ClusterFirst", "ClusterFirstWithHostNet"):
        servers = [cluster_dns]
        searches = [f"{namespace_of(pod)}.svc.{domain}", f"svc.{domain}", domain]
        searches += _words(machine_resolv, "search")
        options = ["ndots:5"]
    elif policy == "Default":
        servers = _words(machine_resolv, "nameserver")
        searches = _words(machine_resolv, "search")
        options = _words(machine_resolv, "options")
    config = spec.get("dnsConfig") or {}
    servers += [s for s in config.get("nameservers") or () if s not in servers]
    searches += [s for s in config.get("searches") or () if s not in searches]
    for option in config.get("options") or ():
        name, value = option.get("name", ""), option.get("value")
        options = [o for o in options if o.partition(":")[0] != name]
        options.append(f"{name}:{value}" if value else name)
    lines = [f"nameserver {server}" for server in servers[:3]]
    unique = list(dict.fromkeys(searches))[:_SEARCH_LIMIT]
    if unique:
        lines.append("search " + " ".join(unique))
    if options:
        lines.append("options " + " ".join(options))
    return "\n".join(lines) + "\n"


def _words(text: str, keyword: str) -> list[str]:
    found: list[str] = []
    for line in text.splitlines():
        word, *rest = line.split() or [""]
        if word == keyword:
            found += rest
    return found
