"""Pure decisions of the node agent: from a pod and what was seen of it to actions and status."""
