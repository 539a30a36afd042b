"""Decisions, pure: what a file says of packages, how versions order, which advisories apply."""
