"""What attacks do to a model: the sweep over epsilons, its checkpoints, and whether it can be believed."""
