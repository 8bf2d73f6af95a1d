"""Between the stores and a PACS: what was reconstructed is published, what is to be read is fetched."""
