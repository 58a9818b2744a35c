"""Pure decisions: which checkpoints to keep, and which value of an option a namespace has."""
