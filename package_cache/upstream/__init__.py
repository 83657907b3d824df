"""The way to the sources."""
