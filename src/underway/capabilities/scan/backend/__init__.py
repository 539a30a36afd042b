"""Reading images, keeping what was indexed and the advisories."""
