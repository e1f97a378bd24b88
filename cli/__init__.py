"""`slash24`: the command for people who look after a node."""
