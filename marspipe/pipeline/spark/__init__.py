"""What every plan needs of Spark: sessions, GPUs, progress, metrics, and failures in one sentence."""
