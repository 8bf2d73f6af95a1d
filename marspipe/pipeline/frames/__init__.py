"""From raw files to the frames table and out of it again."""
