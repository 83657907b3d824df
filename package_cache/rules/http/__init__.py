"""What stands in requests and answers, and what an answer is to be (RFC 9110, 9112, 9530)."""
