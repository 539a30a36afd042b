"""What images are made of, and what is known to be wrong with it: the job of Clair."""
