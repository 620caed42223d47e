"""From float weights to integers: grids, and the ways to choose the integer of each weight."""
