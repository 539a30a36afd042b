"""What a source is and how it is run: pure decisions over a listing of its files."""

from underway.capabilities.packs.rules.detect import detect
from underway.capabilities.packs.rules.naming import dns_label

__all__ = ["detect", "dns_label"]
