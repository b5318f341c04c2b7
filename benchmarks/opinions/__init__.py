"""Second opinions: the distortion engine judged by other people's programs."""
