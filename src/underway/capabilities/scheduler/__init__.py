"""Kubernetes' scheduler: which node runs a pod."""
