"""`slash24 gc`: what is left of pods of which nothing is there any more, and its removal."""
