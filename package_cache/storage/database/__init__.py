"""The SQLite file of the registry: how it is shared, repaired, and rebuilt from its ledger."""
