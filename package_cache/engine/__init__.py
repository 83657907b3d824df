"""What happens: fills, answers, upkeep."""
