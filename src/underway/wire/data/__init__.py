"""Generated tables of wire formats."""
