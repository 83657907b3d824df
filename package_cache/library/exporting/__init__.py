"""Plain trees of what the proxy has: `exporter` decides what goes where, `place` puts it there."""
