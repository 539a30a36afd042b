"""Admission: what is refused, what is completed, and who else is asked, before a write."""

from underway.server.admission.chain import Admission
from underway.server.admission.write import Write

__all__ = ["Admission", "Write"]
