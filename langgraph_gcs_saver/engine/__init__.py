"""How effects happen: what a flow may ask for, and what performs it."""
