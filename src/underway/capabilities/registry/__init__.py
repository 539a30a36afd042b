"""The OCI registry: where images are pushed and pulled."""
