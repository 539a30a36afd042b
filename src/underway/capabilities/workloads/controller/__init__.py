"""Glue: watch, call the rules, write what they decide."""
