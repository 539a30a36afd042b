"""Pure decisions about children, rollouts, hooks and project files."""
