"""Fetching: files, archives and folders of images."""
