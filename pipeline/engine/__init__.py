"""The training loop, its checkpoints, and jobs of several processes."""
