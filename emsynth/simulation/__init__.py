"""From a specimen to a clean field: multislice, its reduction to pictures, and the cache."""
