"""What touches the machine: containers, volumes, images, probes, logs, the kubelet API."""
