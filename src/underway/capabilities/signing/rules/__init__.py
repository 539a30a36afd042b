"""Pure decisions of signing."""
