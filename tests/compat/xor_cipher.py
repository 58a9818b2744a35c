"""A cipher for tests only: no secrecy at all, but deterministic, and in a few lines of any language."""

import hashlib

NAME = "test-xor"


def xor(data):
    """`data` XOR the sha256 digests of `test-xor 0`, `test-xor 1`, …, one after the other."""
    stream = b"".join(hashlib.sha256(b"test-xor %d" % n).digest() for n in range(len(data) // 32 + 1))
    return bytes(a ^ b for a, b in zip(data, stream, strict=False))


class XorCipher:
    """LangGraph's `CipherProtocol`."""

    def encrypt(self, plaintext):
        return NAME, xor(plaintext)

    def decrypt(self, ciphername, ciphertext):
        if ciphername != NAME:
            raise ValueError(ciphername)
        return xor(ciphertext)
