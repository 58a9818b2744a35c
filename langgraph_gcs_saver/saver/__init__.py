"""The interface to LangGraph: translates its arguments to flows, and the results of flows back."""
