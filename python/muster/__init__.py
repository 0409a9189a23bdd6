"""Muster from Python: every machine you can ssh into becomes slots for your program."""
