"""Archives and compressed files, as lines, contents and members."""
