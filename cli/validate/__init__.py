"""Is this node well installed? One module per subject; `table.py` lists the checks.

A check reads the node, and judges what it has read in functions that take values.
"""
