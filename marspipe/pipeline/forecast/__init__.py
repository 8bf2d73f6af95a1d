"""What a job will need on a cluster before it runs: memory, bytes and time of every stage, from measured rates."""
