"""What people run beside the stages: the program `vitscale`."""
