"""Encrypts with XAES-256-GCM, which takes random nonces without a limit in practice."""

from __future__ import annotations

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM


class XAES256GCM:
    """Encrypts with XAES-256-GCM: AES-256-GCM with a nonce of 24 bytes.

    The first half of the nonce makes an AES key for this message, the second
    half is its nonce there. So 24 random bytes are safe for 2**80 messages
    under one key of 32 bytes. Specified at https://c2sp.org/XAES-256-GCM.
    """

    def __init__(self, key: bytes) -> None:
        # The key of a message is two single blocks of AES, and a context for
        # single blocks has no state: one serves all messages.
        cipher = Cipher(algorithms.AES(key), modes.ECB())
        self._encrypt_blocks = cipher.encryptor().update
        # The first subkey of AES-CMAC (NIST SP 800-38B, section 6.1).
        subkey = int.from_bytes(self._encrypt_blocks(bytes(16)), "big") << 1
        if subkey >> 128:
            subkey ^= 1 << 128 | 0x87
        # The KDF of NIST SP 800-108 in counter mode encrypts, for each of two blocks, a
        # counter of 16 bits, the label "X", a zero and the context. All but the context
        # is the same for each message.
        blocks = int.from_bytes(b"\0\1X\0%b\0\2X\0%b" % (bytes(12), bytes(12)), "big")
        self._mask = blocks ^ (subkey << 128 | subkey)

    def encrypt(self, nonce: bytes, data: bytes, associated_data: bytes) -> bytes:
        """Returns the encrypted ``data`` with its tag."""
        return self._cipher(nonce).encrypt(nonce[12:], data, associated_data)

    def decrypt(self, nonce: bytes, data: bytes, associated_data: bytes) -> bytes:
        """Returns what was encrypted; raises ``InvalidTag`` if it is not intact."""
        return self._cipher(nonce).decrypt(nonce[12:], data, associated_data)

    def _cipher(self, nonce: bytes) -> AESGCM:
        context = int.from_bytes(nonce[:12], "big")
        blocks = self._mask ^ (context << 128 | context)
        return AESGCM(self._encrypt_blocks(blocks.to_bytes(32, "big")))
