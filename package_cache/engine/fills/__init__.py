"""Fills: how a file comes from the sources into the store, while it is read by all who wait for it."""
