"""Nodes and pods without machines: kwok's Stages say what becomes of them."""
