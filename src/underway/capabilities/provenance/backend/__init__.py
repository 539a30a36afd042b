"""What is kept and fetched: notes, links, keys, and evidence about images."""
