"""What is on disk: blobs, parts, the registry."""
