"""What the saver does, as flows: generators that yield effects. They import no store, no runner, and nothing of Google.

A flow never logs, sleeps, or reads a clock: it asks for that by effects too, so that every schedule can be replayed.
"""
