"""``underway provenance`` and ``underway policy``."""
