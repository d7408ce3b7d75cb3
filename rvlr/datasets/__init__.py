"""Raw data -> splits: the embedded data set, own photographs, the public data sets; checked and cached."""
