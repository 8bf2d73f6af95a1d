"""What ``marspipe inspect`` reads, without Spark."""
