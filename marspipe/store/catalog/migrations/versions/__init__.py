"""Revisions of the catalog's tables, one script each; a script that was released never changes."""
