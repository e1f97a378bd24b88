"""The thread of the daemon that keeps network policies in force, and what it works with."""
