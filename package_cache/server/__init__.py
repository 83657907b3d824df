"""Request handling: the WSGI application and the servers that host it."""
