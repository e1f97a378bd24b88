"""A pod on a bridge: what the main plugins share. ADD, CHECK, and DEL with GC have a module each."""
