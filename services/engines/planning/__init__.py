"""The memory plan: what models take on a machine, worked out before anything is loaded."""
