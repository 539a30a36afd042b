"""Grafeas over HTTP, and over gRPC for those who ask for it."""
