"""What performs effects, each on a service or a file system. Only these modules import google.* or sqlite3."""
