"""Signatures, attestations, TUF repositories and the Notary service."""
