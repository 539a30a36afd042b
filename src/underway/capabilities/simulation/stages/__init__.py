"""The Stages of nodes and pods where a cluster has none of its own."""
