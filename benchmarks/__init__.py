"""The measurements behind every claim of speed, memory and accuracy. `make bench` runs them all."""
