"""A GenerationRequest becomes a video: in this process, over a prompt list on Ray Data, or behind Ray Serve."""
