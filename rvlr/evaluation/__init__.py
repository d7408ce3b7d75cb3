"""The three-way evaluation, cross-modal, single-modal and mixed retrieval: docs/METHOD.md, "Evaluation"."""
