"""The rules of built-in kinds: what the API server refuses, with the messages clients know."""

from underway.api.kinds.causes import invalid
from underway.api.kinds.check import validate_create, validate_update

__all__ = ["invalid", "validate_create", "validate_update"]
