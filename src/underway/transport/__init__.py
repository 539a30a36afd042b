"""Bytes over sockets: the HTTP front, the HTTP client, TLS, upgraded streams."""
