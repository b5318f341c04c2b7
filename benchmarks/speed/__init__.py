"""Speed: the distortion chain beside the same mathematics in NumPy/SciPy and in torch."""
