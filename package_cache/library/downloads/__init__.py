"""Downloads from Python: the manager, what it is told, where the bytes go, what comes of it."""
