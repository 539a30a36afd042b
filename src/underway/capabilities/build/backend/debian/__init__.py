"""Debian packages into file systems, without running any of their scripts."""
