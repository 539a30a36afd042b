"""From counters to rates; pure."""
