"""From a source directory to a Dockerfile and Kubernetes manifests."""
