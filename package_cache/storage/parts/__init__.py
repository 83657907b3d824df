"""Files that are being written: which process may write them, and how others follow it."""
