"""The shell's own pages: home, nodes, events, and any resource the cluster serves."""
