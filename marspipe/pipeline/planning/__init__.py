"""How a reconstruction is cut into tasks, computed before anything runs."""
