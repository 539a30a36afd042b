"""Decisions, pure: what is desired and what is observed, to what is to be done."""
