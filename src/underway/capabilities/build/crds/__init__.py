"""The CustomResourceDefinitions of builds, as files."""
