"""The SQLite file of the registry: how it is shared, repaired, and made again from its ledger."""
