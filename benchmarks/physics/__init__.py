"""Physics: convergence of the multislice simulation, and what others have published."""
