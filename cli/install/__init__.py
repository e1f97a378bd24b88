"""`slash24 install` and `slash24 uninstall`: each step, whether it is needed, and what carries it out."""
