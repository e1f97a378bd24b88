"""What policy/programming.py writes into nftables: sets, rules of chains, elements of pods; and reading them back."""
