"""Formats and protocols as bytes <-> values. Nothing here does IO."""
