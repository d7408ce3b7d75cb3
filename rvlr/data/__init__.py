"""Data sets: preparation, splits, images and captions."""
