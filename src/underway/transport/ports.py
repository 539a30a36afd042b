"""Who listens on a TCP port: see ``base.ports``."""

from underway.base.ports import holder_of

__all__ = ["holder_of"]
