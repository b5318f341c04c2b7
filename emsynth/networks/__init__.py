"""Networks in PyTorch: the generator CGRDN, exact or with Fourier units, its discriminator, and files of weights.

Every module here imports torch; whoever imports one lazily says what to install where torch is missing.
"""
