"""The library's names and searches: keys, attributes, criteria, file names."""
