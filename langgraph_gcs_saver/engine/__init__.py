"""Effects: the requests that a flow may yield, and the code that performs them."""
