"""What built-in kinds mean by fields that were left out."""

from underway.api.defaults.kinds import apply_defaults

__all__ = ["apply_defaults"]
