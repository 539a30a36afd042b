"""Decisions without IO: which stages are built, what a step means, what identifies its result."""
