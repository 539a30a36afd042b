"""What to do about claims and volumes; pure."""
