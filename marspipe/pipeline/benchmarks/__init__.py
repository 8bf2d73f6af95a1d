"""The plans measured: beside one process, on clusters, and a slice read back."""
