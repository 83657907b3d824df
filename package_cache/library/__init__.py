"""The Python library: archives as files and lines."""
