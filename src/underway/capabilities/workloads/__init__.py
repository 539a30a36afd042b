"""Kubernetes' workload controllers: from Deployments and Jobs to pods and endpoints."""
