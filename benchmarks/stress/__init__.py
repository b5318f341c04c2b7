"""What a data set survives."""
