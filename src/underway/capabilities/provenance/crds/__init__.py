"""CustomResourceDefinitions of image policies."""
