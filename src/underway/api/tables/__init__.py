"""Lists as the tables that kubectl prints: ``meta.k8s.io/v1 Table``."""

from underway.api.tables.durations import human_duration
from underway.api.tables.table import table

__all__ = ["human_duration", "table"]
