"""Accuracy and speed of skymill, measured and written as tables."""
