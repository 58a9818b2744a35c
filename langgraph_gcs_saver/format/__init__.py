"""The stored format, docs/reference/format.md in code: names and bytes. Nothing here reads or writes a store."""
