"""Keys, logs and repositories on disk, and signatures in registries."""
