"""One job each; independent of one another."""
