"""CustomResourceDefinitions of the registry."""
