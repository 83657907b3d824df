"""The items of the library: their rows, their files, and how they come in."""
