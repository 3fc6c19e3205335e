"""Starts real servers, kills them, and runs commands with them."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

from servers import (
    Memcached,
    MongoDB,
    MongoReplicaSet,
    Server,
    ServerUnavailableError,
)

root = Path(__file__).parent.parent
url = os.environ.get("SESSIONS_TEST_MEMCACHED_URL")
mongodb_url = os.environ.get("SESSIONS_TEST_MONGODB_URL")

# It says what it was called for, if services are kept from starting then.
_APT_GET = """\
#!/bin/sh
shift 4
[ -x {policy} ] && echo "$*" >>{folder}/calls
echo no network
exit 100
"""


@unittest.skipUnless(url, "SESSIONS_TEST_MEMCACHED_URL is not set.")
class ServerTest(unittest.TestCase):
    def setUp(self) -> None:
        self.server = Memcached()
        self.addCleanup(self.server.stop)
        self.server.start()

    def test_a_started_server_answers(self) -> None:
        """When `start` returns the server takes commands."""
        self.assertIn(b"STAT pid", _ask(self.server, b"stats"))

    def test_a_killed_server_is_gone(self) -> None:
        """Nobody listens on its port any more."""
        self.server.kill()

        with self.assertRaises(ConnectionRefusedError):
            _ask(self.server, b"stats")

    def test_a_killed_server_starts_again_on_its_port(self) -> None:
        """It is another process under the same URL."""
        before, url = _ask(self.server, b"stats"), self.server.url

        self.server.kill()
        self.server.start()

        self.assertEqual(self.server.url, url)
        self.assertNotEqual(
            before.splitlines()[0], _ask(self.server, b"stats").splitlines()[0]
        )

    def test_a_paused_server_hangs_until_it_is_resumed(self) -> None:
        """It accepts connections, and answers when it goes on."""
        self.server.pause()
        with socket.create_connection(("127.0.0.1", self.server.port), 30) as client:
            client.sendall(b"version\r\n")
            client.settimeout(0.1)
            with self.assertRaises(TimeoutError):
                client.recv(1)
            self.server.resume()
            client.settimeout(30)
            self.assertTrue(client.recv(1))

    def test_a_server_may_be_stopped_twice_and_while_paused(self) -> None:
        """To stop what does not run does nothing."""
        self.server.pause()

        self.server.stop()
        self.server.stop()

    def test_options_are_passed_on(self) -> None:
        """The arguments of the constructor are on the server's command line."""
        with Memcached("-I", "2m") as server:
            self.assertIn(b"item_size_max 2097152", _ask(server, b"stats settings"))

    def test_a_server_that_does_not_start_says_why(self) -> None:
        """The last that the program printed is in the error."""
        with self.assertRaisesRegex(ServerUnavailableError, "no-such-option"):
            Memcached("--no-such-option").start()

    def test_a_server_does_not_outlive_an_interrupted_start(self) -> None:
        """A test run that is ended while servers start leaves none running."""
        server = _Interrupted()

        with self.assertRaises(KeyboardInterrupt):
            server.start()

        with self.assertRaises(ConnectionRefusedError):
            _ask(server, b"stats")


@unittest.skipUnless(mongodb_url, "SESSIONS_TEST_MONGODB_URL is not set.")
class ReplicaSetTest(unittest.TestCase):
    def test_no_member_outlives_a_start_that_fails(self) -> None:
        """Those that are up already are stopped."""
        replica_set = MongoReplicaSet(2)
        replica_set.members[1] = MongoDB("--no-such-option")

        with self.assertRaises(ServerUnavailableError):
            replica_set.start()

        with self.assertRaises(ConnectionRefusedError):
            _ask(replica_set.members[0], b"")


class _Interrupted(Memcached):
    def _accepts(self) -> bool:
        if super()._accepts():
            raise KeyboardInterrupt
        return False


class CommandTest(unittest.TestCase):
    """Tests of ``python -m servers`` with servers that are named already."""

    def test_the_exit_code_is_that_of_the_command(self) -> None:
        """A failing test run fails."""
        self.assertEqual(_run("raise SystemExit(7)").returncode, 7)

    def test_variables_that_are_set_are_left_alone(self) -> None:
        """A server that is named is used, and no other is started."""
        ran = _run("import os; print(os.environ['SESSIONS_TEST_MEMCACHED_URL'])")

        self.assertEqual(ran.stdout, "memcached://named\n")

    def test_a_server_that_cannot_be_had_is_named_at_the_end(self) -> None:
        """The command runs without it, and the variable stays unset."""
        for variable in ("SESSIONS_TEST_MEMCACHED_URL", "SESSIONS_TEST_REDIS_URL"):
            with self.subTest(variable):
                ran = _run(
                    f"import os; print(not os.environ[{variable!r}])",
                    **{variable: "", "PATH": self._empty_folder()},
                )

                self.assertEqual((ran.returncode, ran.stdout), (0, "True\n"))
                last = ran.stderr.splitlines()[-1]
                self.assertIn(f"Nothing was tested on {variable}", last)

    def test_a_browser_that_is_named_is_left_alone(self) -> None:
        """Neither a Chromium nor its driver is looked for."""
        ran = _run(
            "import os; print(os.environ['SESSIONS_TEST_CHROMIUM'],"
            " os.environ['SESSIONS_TEST_CHROMEDRIVER'])",
            PATH=self._empty_folder(),
        )

        self.assertEqual(ran.stdout, "/named/chromium /named/chromedriver\n")

    def test_a_browser_that_cannot_be_had_is_named_at_the_end(self) -> None:
        """The command runs without it, and the variable stays unset."""
        for variable in ("SESSIONS_TEST_CHROMIUM", "SESSIONS_TEST_CHROMEDRIVER"):
            with self.subTest(variable):
                ran = _run(
                    f"import os; print(not os.environ[{variable!r}])",
                    **{variable: "", "PATH": self._empty_folder()},
                )

                self.assertEqual((ran.returncode, ran.stdout), (0, "True\n"))
                last = ran.stderr.splitlines()[-1]
                self.assertIn(f"Nothing was tested on {variable}: chromium", last)

    def test_in_ci_a_browser_that_cannot_be_had_is_a_failure(self) -> None:
        """Green never means skipped."""
        ran = _run(
            "pass", SESSIONS_TEST_CHROMIUM="", PATH=self._empty_folder(), CI="true"
        )

        self.assertEqual(ran.returncode, 1)

    def test_in_ci_a_server_that_cannot_be_had_is_a_failure(self) -> None:
        """Green never means skipped."""
        ran = _run(
            "pass", SESSIONS_TEST_MEMCACHED_URL="", PATH=self._empty_folder(), CI="true"
        )

        self.assertEqual(ran.returncode, 1)

    def test_only_the_servers_that_are_chosen_are_started(self) -> None:
        """`SESSIONS_TEST_SERVERS` has their names; the last line has the others."""
        ran = _run(
            "import os; print(not os.environ['SESSIONS_TEST_REDIS_URL'])",
            SESSIONS_TEST_SERVERS="memcached,mongodb",
            SESSIONS_TEST_REDIS_URL="",
            PATH=self._empty_folder(),
        )

        self.assertEqual((ran.returncode, ran.stdout), (0, "True\n"))
        self.assertEqual(
            ran.stderr,
            "Nothing was tested on what SESSIONS_TEST_SERVERS leaves out: redis\n",
        )

    def test_in_ci_a_choice_of_servers_is_a_failure(self) -> None:
        """Green never means skipped."""
        ran = _run(
            "pass",
            SESSIONS_TEST_SERVERS="memcached",
            SESSIONS_TEST_MONGODB_URL="",
            CI="true",
        )

        self.assertEqual(ran.returncode, 1)

    def test_a_server_that_does_not_exist_cannot_be_chosen(self) -> None:
        """The command does not run, and the message has the names to choose from."""
        ran = _run("print('ran')", SESSIONS_TEST_SERVERS="memcached mongo")

        self.assertEqual((ran.returncode, ran.stdout), (1, ""))
        self.assertEqual(
            ran.stderr,
            "SESSIONS_TEST_SERVERS has no server named 'mongo'. Choose from:"
            " memcached, mongodb, redis, valkey, postgresql, pgbouncer, mysql,"
            " chromium, chromedriver\n",
        )

    @unittest.skipUnless(
        os.environ.get("SESSIONS_TEST_PGBOUNCER_URL"),
        "SESSIONS_TEST_PGBOUNCER_URL is not set.",
    )
    def test_a_server_brings_those_that_it_needs(self) -> None:
        """pgbouncer stands in front of a PostgreSQL of the same run."""
        variables = (
            "SESSIONS_TEST_POSTGRESQL_URL",
            "SESSIONS_TEST_PGBOUNCER_URL",
        )
        ran = _run(
            "import os, socket\n"
            "from urllib.parse import urlsplit\n"
            f"for name in {variables}:\n"
            "    url = urlsplit(os.environ[name])\n"
            "    socket.create_connection((url.hostname, url.port)).close()\n"
            "    print(name)",
            SESSIONS_TEST_SERVERS="pgbouncer",
            **dict.fromkeys(variables, ""),
        )

        self.assertEqual(ran.stdout.split(), list(variables))

    @unittest.skipUnless(os.geteuid() == 0, "Only root installs without sudo.")
    def test_missing_packages_are_installed_in_one_go(self) -> None:
        """The list of packages is updated once, and no service may be started.

        As that fails here, each is tried once more, to say what is wrong with it.
        """
        folder = Path(self._empty_folder())
        for tool in ("rm", "chmod"):
            found = shutil.which(tool)
            assert found is not None
            (folder / tool).symlink_to(found)
        policy = Path("/usr/sbin/policy-rc.d")
        (folder / "apt-get").write_text(_APT_GET.format(folder=folder, policy=policy))
        (folder / "apt-get").chmod(0o755)
        was_there = policy.exists()

        ran = _run(
            "pass",
            SESSIONS_TEST_MEMCACHED_URL="",
            SESSIONS_TEST_REDIS_URL="",
            PATH=str(folder),
        )

        self.assertEqual(
            (folder / "calls").read_text().splitlines(),
            [
                *["install memcached redis-server", "update"],
                "install memcached redis-server",
                *["install memcached", "install memcached"],
                *["install redis-server", "install redis-server"],
            ],
        )
        self.assertEqual(policy.exists(), was_there)
        self.assertIn(
            "redis-server is not installed, and cannot be. Install it with: apt-get"
            " install redis-server (/bin/sh says: no network)",
            ran.stderr,
        )

    def _empty_folder(self) -> str:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        return folder.name


def _ask(server: Server, command: bytes) -> bytes:
    """Returns the reply of the server to a command, up to END."""
    with socket.create_connection(("127.0.0.1", server.port), 30) as client:
        client.sendall(command + b"\r\n")
        with client.makefile("rb") as answer:
            return b"".join(iter(answer.readline, b"END\r\n"))


def _run(code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs Python code under ``python -m servers``."""
    environment = {
        **os.environ,
        "CI": "",
        "SESSIONS_TEST_SERVERS": "",
        "SESSIONS_TEST_MEMCACHED_URL": "memcached://named",
        "SESSIONS_TEST_MONGODB_URL": "mongodb://named",
        "SESSIONS_TEST_REDIS_URL": "redis://named",
        "SESSIONS_TEST_VALKEY_URL": "redis://named",
        "SESSIONS_TEST_POSTGRESQL_URL": "postgresql://user:password@named/database",
        "SESSIONS_TEST_PGBOUNCER_URL": "postgresql://user:password@named/database",
        "SESSIONS_TEST_MYSQL_URL": "mysql://named",
        "SESSIONS_TEST_CHROMIUM": "/named/chromium",
        "SESSIONS_TEST_CHROMEDRIVER": "/named/chromedriver",
        **variables,
    }
    return subprocess.run(
        [sys.executable, "-m", "servers", sys.executable, "-c", code],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
