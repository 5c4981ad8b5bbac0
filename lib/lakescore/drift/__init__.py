"""Drift: how far the data of a batch have moved from the training set."""
