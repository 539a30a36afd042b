"""What touches the kernel: namespaces, mounts, cgroups, layers, links, nftables."""
