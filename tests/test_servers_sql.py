"""Kills, pauses and restarts PostgreSQL, pgbouncer and MariaDB."""

from __future__ import annotations

import os
import subprocess
import unittest
from urllib.parse import urlsplit

from servers import MariaDB, PgBouncer, PostgreSQL, Server
from tests.server_contract import ServerContract


class _PostgreSQLTests(ServerContract):
    """What PostgreSQL does, and pgbouncer in front of it."""

    def store(self) -> None:
        self.assertEqual(self.psql("CREATE TABLE cart (thing text)"), "")
        self.psql("INSERT INTO cart VALUES ('apples')")

    def has_stored(self) -> bool:
        return self.psql("SELECT thing FROM cart") == "apples\n"

    def is_refused_without_password(self) -> bool:
        password = urlsplit(self.server.url).password
        ran = _psql(self.server.url.replace(f":{password}", ""), "SELECT 1")
        return ran.returncode == 2 and "no password supplied" in ran.stderr

    def psql(self, command: str) -> str:
        return _psql(self.server.url, command).stdout


@unittest.skipUnless(
    os.environ.get("SESSIONS_TEST_POSTGRESQL_URL"),
    "SESSIONS_TEST_POSTGRESQL_URL is not set.",
)
class PostgreSQLTest(_PostgreSQLTests, unittest.TestCase):
    def make_server(self) -> PostgreSQL:
        return PostgreSQL()

    def test_a_killed_server_does_not_finish_what_it_computes(self) -> None:
        """Its processes that serve connections are killed with it."""
        busy = self._client(
            "SELECT 1; SELECT count(*) FROM generate_series(1, 2000000000)"
        )

        self.server.kill()
        output, _ = busy.communicate(timeout=30)
        self.server.start()

        self.assertIn("server closed the connection unexpectedly", output)
        self.assertEqual(self.psql("SELECT 1"), "1\n")

    def test_connections_hang_while_the_server_is_paused(self) -> None:
        """The processes that serve them are paused, too."""
        client = self._client("SELECT 1; \\i /dev/stdin")
        assert client.stdin is not None

        self.server.pause()
        client.stdin.write("SELECT 2;\n\\q\n")
        client.stdin.flush()
        with self.assertRaises(subprocess.TimeoutExpired):
            client.wait(timeout=0.5)
        self.server.resume()

        self.assertEqual(client.communicate(timeout=30)[0], "2\n")

    def test_options_are_passed_on(self) -> None:
        """The arguments of the constructor are on the server's command line."""
        with PostgreSQL("-c", "fsync=on") as server:
            self.assertEqual(_psql(server.url, "SHOW fsync").stdout, "on\n")

    def _client(self, commands: str) -> subprocess.Popen[str]:
        """Starts a client, and returns it when it has the reply to SELECT 1."""
        client = subprocess.Popen(
            _psql_command(self.server.url, *commands.split("; ")),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            bufsize=1,
        )
        assert client.stdout is not None
        self.assertEqual(client.stdout.readline(), "1\n")
        return client


@unittest.skipUnless(
    os.environ.get("SESSIONS_TEST_PGBOUNCER_URL"),
    "SESSIONS_TEST_PGBOUNCER_URL is not set.",
)
class PgBouncerTest(_PostgreSQLTests, unittest.TestCase):
    def make_server(self) -> PgBouncer:
        postgresql = PostgreSQL()
        self.addCleanup(postgresql.stop)
        postgresql.start()
        return PgBouncer(postgresql.url)

    def test_it_pools_transactions(self) -> None:
        """A connection of PostgreSQL is a client's for one transaction."""
        administration = self.server.url.replace("/postgres", "/pgbouncer")

        settings = _psql(administration, "SHOW CONFIG").stdout

        self.assertIn("\npool_mode|transaction|", settings)


@unittest.skipUnless(
    os.environ.get("SESSIONS_TEST_MYSQL_URL"), "SESSIONS_TEST_MYSQL_URL is not set."
)
class MariaDBTest(ServerContract, unittest.TestCase):
    def make_server(self) -> MariaDB:
        return MariaDB()

    def store(self) -> None:
        _mariadb(self.server, "CREATE TABLE cart (thing text)")
        _mariadb(self.server, "INSERT INTO cart VALUES ('apples')")

    def has_stored(self) -> bool:
        return _mariadb(self.server, "SELECT thing FROM cart").stdout == "apples\n"

    def is_refused_without_password(self) -> bool:
        rans = [
            _mariadb(self.server, "SELECT 1", user=user, password="")
            for user in ("sessions", "root", "nobody")
        ]
        return all("Access denied for user" in ran.stderr for ran in rans)

    def test_options_are_passed_on(self) -> None:
        """The arguments of the constructor are on the server's command line."""
        with MariaDB("--wait-timeout=7") as server:
            ran = _mariadb(server, "SELECT @@global.wait_timeout")

        self.assertEqual(ran.stdout, "7\n")


def _psql(url: str, command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        _psql_command(url, command), capture_output=True, text=True, check=False
    )


def _psql_command(url: str, *commands: str) -> list[str]:
    options = ["--no-psqlrc", "--no-align", "--tuples-only", "--quiet", "--no-password"]
    return ["psql", *options, url, *(f"--command={command}" for command in commands)]


def _mariadb(
    server: Server,
    command: str,
    *,
    user: str = "sessions",
    password: str | None = None,
) -> subprocess.CompletedProcess[str]:
    url = urlsplit(server.url)
    if password is None:
        password = url.password or ""
    return subprocess.run(
        [
            *["mariadb", "--no-defaults", "--host=127.0.0.1", f"--user={user}"],
            *[f"--port={url.port}", "--batch", "--skip-column-names"],
            *["--execute", command, url.path[1:]],
        ],
        env={**os.environ, "MYSQL_PWD": password},
        capture_output=True,
        text=True,
        check=False,
    )
