"""The commands of signing."""
