"""The model: text branches, token fuser, diffusion loss, sampler and pipeline. Knows nothing of Ray or DeepSpeed."""
