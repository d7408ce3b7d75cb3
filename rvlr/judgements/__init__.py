"""People's judgements of the COCO test images: Crisscrossed Captions and ECCV Caption; docs/METHOD.md, "People's
judgements"."""
