"""What the registry keeps on disk, and how images nobody pushed get there."""
