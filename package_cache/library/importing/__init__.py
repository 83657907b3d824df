"""Older caches, to be taken over: each has a module that reads it; `importer` puts what is found into the store."""
