"""Training: tasks (what is learnt), the engine (one loop), checkpoints, processes."""
