"""Pure decisions: in-toto layouts, provenance, Grafeas filters and image policies."""
