"""What the decoders make of mutations of what they are meant for.

Each target takes honest seeds (`seeds`), changes them in one of their layers or in several, computes digests again
(`mutations`), and has the result read: by a decoder, or by the public API on a store that holds it. A typed error is
fine, and so is an answer. Any other exception, a call that does not end, a crash of the process, and more memory than
the allowance are failures. The operating system enforces the allowance.

An iteration depends on the target, the seed and its own number, and on no other iteration. So a failure reported as

    python -m tests.security.fuzzing store --seed 7 --first 1234 --iterations 1

happens again when that is run. `make soak` runs each target for `FUZZ_SECONDS` divided by their number (600 by
default), `make test` a few iterations of each.
"""
