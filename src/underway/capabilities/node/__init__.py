"""The node agent: runs the pods bound to this machine, as the kubelet does on a cluster."""
