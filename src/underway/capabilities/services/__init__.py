"""Services and their names: what kube-proxy and CoreDNS do, for one machine."""
