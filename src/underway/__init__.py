"""Underway: from source code to production on Kubernetes, on one machine or many."""

__version__ = "0.1.0"
