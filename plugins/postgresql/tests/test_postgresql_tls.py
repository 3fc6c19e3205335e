"""Encrypted connections of the PostgreSQL backend."""

from __future__ import annotations

import asyncio
import os
import pwd
import secrets
import subprocess
import tempfile
import unittest
from pathlib import Path

from tornado_sessions_postgresql import PostgreSQLBackend

from servers import PostgreSQL
from tornado_sessions.errors import BackendError
from tornado_sessions.storage.backend import Record

SERVER = os.environ.get("SESSIONS_TEST_POSTGRESQL_URL", "")


@unittest.skipUnless(SERVER, "SESSIONS_TEST_POSTGRESQL_URL is not set")
class TLSTest(unittest.IsolatedAsyncioTestCase):
    async def asyncSetUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.certificate = Path(folder.name, "certificate.pem")
        await asyncio.to_thread(self._start_server)

    def _start_server(self) -> None:
        """Starts a server with a key of its own, for which nobody vouches."""
        key = self.certificate.with_name("key.pem")
        command = "openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=localhost"
        command += " -addext subjectAltName=IP:127.0.0.1"
        subprocess.run(
            [*command.split(), "-keyout", key, "-out", self.certificate],
            check=True,
            capture_output=True,
        )
        key.chmod(0o600)
        if os.geteuid() == 0:
            # The server has the rights of this user.
            nobody = pwd.getpwnam("nobody")
            os.chown(key, nobody.pw_uid, nobody.pw_gid)
            key.parent.chmod(0o755)
        self.server = PostgreSQL(
            "-cssl=on", f"-cssl_cert_file={self.certificate}", f"-cssl_key_file={key}"
        )
        self.addCleanup(self.server.stop)
        self.server.start()

    async def test_the_options_of_the_url_open_an_encrypted_connection(self) -> None:
        """They are the driver's own."""
        for options in (
            f"sslmode=verify-full&sslrootcert={self.certificate}",
            f"sslmode=verify-ca&sslrootcert={self.certificate}",
            f"sslmode=require&sslrootcert={self.certificate}",
            "sslmode=prefer",
        ):
            with self.subTest(options):
                backend = self._open(options)
                key = secrets.token_bytes(32)

                await backend.insert(key, Record(b"data"))

                record = await backend.load(key)
                assert record is not None
                self.assertEqual(record.data, b"data")

    async def test_a_certificate_that_nobody_vouches_for_is_refused(self) -> None:
        """The error says that this is why, and what to check."""
        other = self.certificate.with_name("other.pem")
        command = "openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=other"
        process = await asyncio.create_subprocess_exec(
            *command.split(),
            *("-keyout", str(other.with_suffix(".key")), "-out", str(other)),
            stderr=subprocess.DEVNULL,
        )
        self.assertEqual(await process.wait(), 0)
        backend = self._open(f"sslmode=verify-full&sslrootcert={other}")

        with self.assertRaisesRegex(
            BackendError,
            "CERTIFICATE_VERIFY_FAILED.* Check the option sslrootcert of the URL, and"
            " whether the certificate has the name of the host",
        ):
            await backend.ping()

    async def test_a_certificate_file_that_is_not_there_is_told(self) -> None:
        """The error names the options."""
        backend = self._open("sslmode=verify-full&sslrootcert=/nowhere/ca.pem")

        with self.assertRaisesRegex(
            BackendError, "No such file.*sslrootcert, sslcert and sslkey"
        ):
            await backend.ping()

    async def test_a_server_without_encryption_is_refused_where_it_is_required(
        self,
    ) -> None:
        """The connection does not fall back to plain text."""
        backend = PostgreSQLBackend.from_url(f"{SERVER}?sslmode=require&timeout=20", {})
        self.addAsyncCleanup(backend.close)

        with self.assertRaisesRegex(
            BackendError,
            r"rejected SSL upgrade\. Turn TLS on at the server, or remove the option"
            r" 'sslmode' from the URL\.$",
        ):
            await backend.ping()

    def _open(self, options: str) -> PostgreSQLBackend:
        backend = PostgreSQLBackend.from_url(
            f"{self.server.url}?{options}&timeout=20", {}
        )
        self.addAsyncCleanup(backend.close)
        return backend


if __name__ == "__main__":
    unittest.main()
