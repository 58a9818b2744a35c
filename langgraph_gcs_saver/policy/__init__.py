"""Pure decisions: rows in, decisions and reasons out."""
