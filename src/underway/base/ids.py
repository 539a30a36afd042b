"""Identifiers and random names."""

from __future__ import annotations

import secrets
import uuid

# No vowels and no characters that read alike, so that no words arise.
# Source: kubernetes/apimachinery pkg/util/rand.
_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"
_NAME_LIMIT = 63


def new_uid() -> str:
    """A fresh object UID (RFC 4122 version 4)."""
    return str(uuid.uuid4())


def suffix(length: int = 5) -> str:
    """Random characters as they stand behind a ``generateName``."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(length))


def generate_name(base: str) -> str:
    """``base`` with a random suffix, cut so that the whole is at most 63 characters."""
    return base[: _NAME_LIMIT - 5] + suffix()


def safe_encode(text: str) -> str:
    """Map digits and letters onto the vowel-free alphabet, as pod-template hashes are shown."""
    return "".join(_ALPHABET[ord(char) % len(_ALPHABET)] for char in text)
