"""The CNI protocol, versions 0.1.0 to 1.1.0, and its types. Needs the standard library only."""
