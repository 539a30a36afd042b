"""What every room stands on: errors, clock, ids, threads, logging, the home directory."""
