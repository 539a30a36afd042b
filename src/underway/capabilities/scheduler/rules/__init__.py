"""The scheduler's decisions: filters, scores, preemption and the order of the queue."""
