"""The node at a glance: what is read of it, and how that is shown in a terminal, as SVG and as HTML."""
