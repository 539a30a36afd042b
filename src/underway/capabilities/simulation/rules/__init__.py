"""What a Stage selects, and what it makes of an object."""
