"""From source code to a running application: the Passage, `ship` and `explain`."""
