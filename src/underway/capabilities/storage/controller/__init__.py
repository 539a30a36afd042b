"""Watching claims, volumes and the pods that use them."""
