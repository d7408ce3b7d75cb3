"""Training, both stages: what is learnt (losses, tasks), one loop (engine), and the state that a run resumes from."""
