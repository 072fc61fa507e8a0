"""What a run will need, before it runs: memory by part, whether it fits the machines, hours."""
