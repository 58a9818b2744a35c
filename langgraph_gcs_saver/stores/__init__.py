"""Stores, which perform effects on a service or a file system. Only these modules import google.* or sqlite3."""
