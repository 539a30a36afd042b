"""Where images come from, what is known of them, and which of them may run."""
