"""LangGraph's face: its arguments and results, translated to and from flows."""
