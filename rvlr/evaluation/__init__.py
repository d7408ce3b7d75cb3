"""The three-way evaluation: cross-modal, single-modal and mixed retrieval, see METHOD.md "Evaluation"."""

MEASURED = ("counts", "notes", "protocols")  # what an evaluation's record says of the model; it keeps a digest of these
