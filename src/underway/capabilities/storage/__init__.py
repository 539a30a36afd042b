"""Persistent volumes: claims find volumes, and directories become volumes."""
