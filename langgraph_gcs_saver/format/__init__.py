"""What is stored: names and bytes, and nothing that reads or writes them (docs/reference/format.md in code)."""
