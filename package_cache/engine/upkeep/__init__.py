"""What keeps the store in order beside the requests: bounds, damage, leftovers, last use."""
