"""Measurements behind every claim about speed, memory and accuracy. `make bench` runs them all."""
