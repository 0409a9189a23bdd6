"""What a process that runs tasks has beside them."""
