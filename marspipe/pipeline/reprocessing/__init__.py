"""``marspipe reprocess``: what is out of date or was never finished, made again at night."""
