"""The metrics API: what nodes and pods use now."""
