"""Glue: watches the pods of this node, asks the rules, acts through the backend."""

from underway.capabilities.node.controller.setup import add

__all__ = ["add"]
