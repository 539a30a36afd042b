"""Generated indexes of Kubernetes' built-in types."""
