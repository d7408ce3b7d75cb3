"""The authors' files, read and written: checkpoints, teacher features, relevance."""
