"""Decisions, pure: what is shipped, how it stands, what is to be undone."""
