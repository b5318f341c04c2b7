"""Numba kernels of the distortions: arrays and numbers in, arrays out.

Every helper that a kernel inlines stands in the kernel's own file, because Numba's cache does not notice
an edit in another one. The functions above check, allocate and convert units; no kernel does.
"""
