"""How well the trained networks do: against baselines, and against oracles of them."""
