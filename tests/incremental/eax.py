"""AES-EAX as LangGraph's `CipherProtocol`, made with pycryptodome."""

import hashlib

from Crypto.Cipher import AES


class Eax:
    """Keyed by a text; its name does not say which key it is."""

    def __init__(self, key):
        self.key = hashlib.sha256(key.encode()).digest()

    def encrypt(self, plaintext):
        cipher = AES.new(self.key, AES.MODE_EAX)
        data, tag = cipher.encrypt_and_digest(plaintext)
        return "aes-eax", cipher.nonce + tag + data

    def decrypt(self, ciphername, ciphertext):
        if ciphername != "aes-eax":
            raise ValueError(f"no key for {ciphername}")
        cipher = AES.new(self.key, AES.MODE_EAX, nonce=ciphertext[:16])
        return cipher.decrypt_and_verify(ciphertext[32:], ciphertext[16:32])
