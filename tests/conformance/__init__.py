"""Behaviour tests named after Kubernetes' conformance tests; docs/conformance.md is their table."""
