"""XAES-256-GCM against its published vectors."""

from __future__ import annotations

import hashlib
import unittest

from tornado_sessions_cookie.xaes import XAES256GCM

# Published at https://c2sp.org/XAES-256-GCM: key, associated data, ciphertext
# of the plaintext "XAES-256-GCM" under the nonce "ABCDEFGHIJKLMNOPQRSTUVWX".
VECTORS = [
    (
        b"\x01" * 32,
        b"",
        "ce546ef63c9cc60765923609b33a9a1974e96e52daf2fcf7075e2271",
    ),
    (
        b"\x03" * 32,
        b"c2sp.org/XAES-256-GCM",
        "986ec1832593df5443a179437fd083bf3fdb41abd740a21f71eb769d",
    ),
]


# The same page: the hash of 10,000 ciphertexts of a deterministic stream.
ACCUMULATED = "e6b9edf2df6cec60c8cbd864e2211b597fb69a529160cd040d56c0c210081939"


class XAES256GCMTest(unittest.TestCase):
    def test_the_published_vectors_hold(self) -> None:
        """Behaviour 61: one for each way that the subkey is made."""
        nonce, plaintext = b"ABCDEFGHIJKLMNOPQRSTUVWX", b"XAES-256-GCM"
        for key, associated_data, ciphertext in VECTORS:
            cipher = XAES256GCM(key)

            self.assertEqual(
                cipher.encrypt(nonce, plaintext, associated_data).hex(), ciphertext
            )
            self.assertEqual(
                cipher.decrypt(nonce, bytes.fromhex(ciphertext), associated_data),
                plaintext,
            )

    def test_the_published_accumulated_vector_holds(self) -> None:
        """Behaviour 61: 10,000 keys, nonces, texts and associated data."""
        # At most 32 + 24 + 2 * 256 bytes each.
        stream = memoryview(hashlib.shake_128().digest(10_000 * 568))
        position = 0

        def read(size: int) -> bytes:
            nonlocal position
            position += size
            return bytes(stream[position - size : position])

        ciphertexts = hashlib.shake_128()
        for _ in range(10_000):
            key, nonce = read(32), read(24)
            plaintext = read(read(1)[0])
            associated_data = read(read(1)[0])
            cipher = XAES256GCM(key)
            ciphertext = cipher.encrypt(nonce, plaintext, associated_data)
            ciphertexts.update(ciphertext)

            self.assertEqual(
                cipher.decrypt(nonce, ciphertext, associated_data), plaintext
            )
        self.assertEqual(ciphertexts.hexdigest(32), ACCUMULATED)

    def test_one_context_serves_many_messages(self) -> None:
        """Blocks of one message leave nothing behind that changes the next."""
        cipher = XAES256GCM(b"k" * 32)
        nonces = [bytes([number]) * 24 for number in range(50)]
        first = [cipher.encrypt(nonce, b"text", b"") for nonce in nonces]
        again = [cipher.encrypt(nonce, b"text", b"") for nonce in reversed(nonces)]
        fresh = [XAES256GCM(b"k" * 32).encrypt(nonce, b"text", b"") for nonce in nonces]

        self.assertEqual(first, again[::-1])
        self.assertEqual(first, fresh)
