"""What requests, manifests and credentials mean: pure decisions."""
