"""The CustomResourceDefinition of Stages."""
