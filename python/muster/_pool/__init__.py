"""What the pool of a program does: how tasks get in, with which options, and how far it is."""
