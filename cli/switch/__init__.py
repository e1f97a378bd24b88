"""Moving a node from another provider of pod networks: what that left here, and how to take it away.

`providers` says what each provider leaves. `seen` reads what is on the node, once; `firewall`, `routing` and `files`
say which of that is a provider's, and take it away; `find` puts it in order.
"""
