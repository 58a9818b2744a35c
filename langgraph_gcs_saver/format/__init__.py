"""What is stored: names and bytes, and nothing that reads or writes them (docs/FORMAT.md in code)."""
