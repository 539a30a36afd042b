"""The all-in-one: command line, supervisor, processes. Where client and server meet."""
