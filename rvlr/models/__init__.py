"""The retrieval model: a timm vision encoder, a BERT cut in two, and heads."""
