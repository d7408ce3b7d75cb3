"""The three-way evaluation: cross-modal, single-modal and mixed retrieval, see METHOD.md "Evaluation"."""
