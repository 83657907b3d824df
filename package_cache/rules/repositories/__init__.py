"""Which repository a request is for, and how long what is there is good."""
