"""Alembic's folder: ``versions`` holds one script per revision of the catalog's tables."""
