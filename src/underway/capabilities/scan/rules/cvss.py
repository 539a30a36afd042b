"""CVSS base scores.

Source: FIRST CVSS v3.1 specification, section 7.1.
"""

from __future__ import annotations

import math

_IMPACT = {"H": 0.56, "L": 0.22, "N": 0.0}
_WEIGHTS = {
    "AV": {"N": 0.85, "A": 0.62, "L": 0.55, "P": 0.2},
    "AC": {"L": 0.77, "H": 0.44},
    "UI": {"N": 0.85, "R": 0.62},
}
_PRIVILEGES = {"U": {"N": 0.85, "L": 0.62, "H": 0.27}, "C": {"N": 0.85, "L": 0.68, "H": 0.5}}


def score(vector: str) -> float:
    """The base score of a CVSS 3 vector, from 0.0 to 10.0; 0.0 for text that is none."""
    version, *parts = str(vector).split("/")
    if not version.startswith("CVSS:3"):
        return 0.0
    metrics = dict(part.partition(":")[::2] for part in parts)
    try:
        changed = metrics["S"] == "C"
        base = 1 - math.prod(1 - _IMPACT[metrics[each]] for each in "CIA")
        impact = 7.52 * (base - 0.029) - 3.25 * (base - 0.02) ** 15 if changed else 6.42 * base
        exploitability = 8.22 * _PRIVILEGES[metrics["S"]][metrics["PR"]]
        for name, weights in _WEIGHTS.items():
            exploitability *= weights[metrics[name]]
    except KeyError:
        return 0.0
    if impact <= 0:
        return 0.0
    total = (impact + exploitability) * (1.08 if changed else 1.0)
    return _rounded_up(min(total, 10.0))


def _rounded_up(value: float) -> float:
    """To one decimal, upwards; by whole numbers, so that 4.02 does not become 4.1 by accident."""
    whole = round(value * 100_000)
    return whole / 100_000 if whole % 10_000 == 0 else (whole // 10_000 + 1) / 10


def rating(value: float) -> str:
    """The word for a score. Source: CVSS v3.1, section 5."""
    if value >= 9.0:
        return "Critical"
    if value >= 7.0:
        return "High"
    if value >= 4.0:
        return "Medium"
    return "Low" if value > 0 else "Unknown"
