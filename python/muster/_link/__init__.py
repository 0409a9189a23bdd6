"""The connection of a program or task to its pool: outcomes, output and stores come through it."""
