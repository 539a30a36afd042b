"""The Kubernetes object model, pure: resources, schemas, patches, selectors, tables."""
