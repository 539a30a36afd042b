"""Makes ``tests.peers`` importable for this room's tests."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
