"""What a run leaves on disk: its directory, checkpoints that any number of workers take up, and the exported model."""
