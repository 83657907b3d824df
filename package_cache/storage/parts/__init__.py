"""Files that are being made: who may write them, and what others are told of that."""
