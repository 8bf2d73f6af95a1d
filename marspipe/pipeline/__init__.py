"""The Spark plans, one module per job, each readable from top to bottom."""
