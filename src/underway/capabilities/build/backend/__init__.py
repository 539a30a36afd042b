"""Building: files, mounts, containers, registries."""
