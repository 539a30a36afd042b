"""Recipes of stand-in base images, as data."""
