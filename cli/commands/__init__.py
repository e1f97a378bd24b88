"""One module per command of `slash24`, named after it: its options, and what it prints."""
