"""What other implementations and their tests can use: the contract suite of the stores, in `testing.contract`."""
