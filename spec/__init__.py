"""CNI as types and protocol (versions 0.1.0 to 1.1.0), on the standard library alone; nothing is imported from here."""
