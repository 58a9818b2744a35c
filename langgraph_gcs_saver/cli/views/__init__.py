"""What a person sees: tables, pages and plans."""
