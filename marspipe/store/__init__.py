"""Where data lies: the door to local disk and HDFS, the tables, the finished volumes."""
