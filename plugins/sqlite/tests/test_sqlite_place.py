"""What the SQLite backend refuses because of who owns the file and its directory."""

from __future__ import annotations

import os
import pathlib
import secrets
import sqlite3
import tempfile
import unittest

from tornado_sessions_sqlite import SQLiteBackend

from tornado_sessions.errors import BackendError
from tornado_sessions.storage.backend import Record

# The user "nobody", who is not the one that runs the tests.
OTHER = 65534

needs_root = unittest.skipUnless(
    os.geteuid() == 0, "Only root can make files of other users."
)


class _Case(unittest.IsolatedAsyncioTestCase):
    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = pathlib.Path(directory.name).resolve()
        self.path = self.directory / "sessions.db"

    async def use(self, path: pathlib.Path | None = None) -> None:
        """Stores a record and loads it."""
        backend = SQLiteBackend(path or self.path, timeout=20)
        self.addAsyncCleanup(backend.close)
        key = secrets.token_bytes(32)
        await backend.insert(key, Record(b"one"))
        self.assertIsNotNone(await backend.load(key))
        await backend.close()

    async def assert_refused(
        self, told: str, path: pathlib.Path | None = None
    ) -> SQLiteBackend:
        path = path or self.path
        backend = SQLiteBackend(path, timeout=20)
        self.addAsyncCleanup(backend.close)
        before = sorted(self.directory.rglob("*"))
        for operation in (backend.load, backend.delete):
            with self.assertRaises(BackendError) as refused:
                await operation(bytes(32))
            self.assertIn(
                f"The session database {str(path)!r} cannot be used: ",
                str(refused.exception),
            )
            self.assertIn(told, str(refused.exception))
        self.assertEqual(sorted(self.directory.rglob("*")), before)
        return backend

    def make_directory(self, name: str, mode: int) -> pathlib.Path:
        directory = self.directory / name
        directory.mkdir()
        directory.chmod(mode)
        return directory


@needs_root
class OwnerTest(_Case):
    async def test_a_file_of_another_user_is_refused(self) -> None:
        """Behaviour 87: the error names both users, and the file is as it was."""
        with sqlite3.connect(self.path) as database:
            database.execute("CREATE TABLE theirs (id)")
        database.close()
        os.chown(self.path, OTHER, OTHER)
        before = self.path.read_bytes()

        backend = await self.assert_refused(
            f"{str(self.path)!r} belongs to the user 65534, and this process runs as 0."
            " Remove it, or give it to this user with chown, or keep the file"
            " elsewhere."
        )

        self.assertEqual(self.path.read_bytes(), before)
        os.chown(self.path, 0, 0)
        self.path.chmod(0o600)
        await backend.delete(bytes(32))

    async def test_a_link_to_a_file_of_another_user_is_refused(self) -> None:
        """Behaviour 87: though the link is ours."""
        target = self.directory / "theirs.db"
        target.touch()
        os.chown(target, OTHER, OTHER)
        self.path.symlink_to(target)

        await self.assert_refused(f"{str(target)!r} belongs to the user 65534")

    async def test_another_users_files_beside_it_are_refused(self) -> None:
        """Behaviour 87: SQLite takes them for what is to be written to the file."""
        await self.use()
        for suffix in ("-wal", "-shm", "-journal"):
            with self.subTest(suffix):
                beside = self.directory / f"sessions.db{suffix}"
                beside.touch()
                os.chown(beside, OTHER, OTHER)

                await self.assert_refused(f"{str(beside)!r} belongs to the user 65534")

                beside.unlink()

    async def test_files_beside_the_target_of_a_link_count(self) -> None:
        """Behaviour 87: that is where SQLite looks for them."""
        target = self.directory / "ours.db"
        beside = self.directory / "ours.db-wal"
        self.path.symlink_to(target.name)
        beside.touch()
        os.chown(beside, OTHER, OTHER)
        target.touch()

        await self.assert_refused(f"{str(beside)!r} belongs to the user 65534")

    async def test_a_link_beside_it_to_another_users_file_is_refused(self) -> None:
        """Behaviour 87: what the link leads to is what SQLite reads."""
        await self.use()
        theirs = self.directory / "theirs"
        theirs.touch()
        os.chown(theirs, OTHER, OTHER)
        beside = self.directory / "sessions.db-wal"
        beside.symlink_to(theirs)

        await self.assert_refused(f"{str(beside)!r} belongs to the user 65534")

    async def test_another_users_link_in_a_sticky_directory_is_refused(self) -> None:
        """Behaviour 87: anybody can make one there, and it leads where they like."""
        shared = self.make_directory("shared", 0o1777)
        link = shared / "sessions.db"
        link.symlink_to(self.path)
        os.lchown(link, OTHER, OTHER)
        await self.use()

        await self.assert_refused(f"{str(link)!r} belongs to the user 65534", link)

    async def test_another_users_directory_in_a_sticky_one_is_refused(self) -> None:
        """Behaviour 87: as in /tmp, where anybody can make it beforehand."""
        shared = self.make_directory("shared", 0o1777)
        theirs = shared / "shop"
        theirs.mkdir(mode=0o755)
        os.chown(theirs, OTHER, OTHER)

        await self.assert_refused(
            f"{str(theirs)!r} belongs to the user 65534", theirs / "sessions.db"
        )

    async def test_another_users_link_where_nobody_else_writes_is_followed(
        self,
    ) -> None:
        """Behaviour 87: such as the one that a deployment turns to its release."""
        self.make_directory("release-1", 0o700)
        link = self.directory / "current"
        link.symlink_to("release-1")
        os.lchown(link, OTHER, OTHER)

        await self.use(link / "sessions.db")

        self.assertTrue((self.directory / "release-1" / "sessions.db").exists())

    async def test_a_directory_of_another_user_is_refused(self) -> None:
        """Behaviour 87: its owner may replace the file, whatever its mode."""
        for mode in (0o700, 0o755, 0o1755, 0o1777):
            theirs = self.make_directory(f"{mode:o}", mode)
            os.chown(theirs, OTHER, OTHER)
            with self.subTest(mode):
                await self.assert_refused(
                    "the user 65534 may replace it, as the directory"
                    f" {str(theirs)!r} belongs to that user, and this process runs as"
                    " 0. Give the directory to this user or to root with chown, or"
                    " keep the file elsewhere.",
                    theirs / "sessions.db",
                )

    async def test_a_directory_of_another_user_further_up_is_refused(self) -> None:
        """Behaviour 87: its owner may replace the directory; after chown it works."""
        theirs = self.make_directory("theirs", 0o755)
        (theirs / "data").mkdir(mode=0o700)
        os.chown(theirs, OTHER, OTHER)
        path = theirs / "data" / "sessions.db"

        backend = await self.assert_refused(f"the directory {str(theirs)!r}", path)

        os.chown(theirs, 0, 0)
        self.assertIsNone(await backend.load(bytes(32)))

    async def test_a_link_into_a_directory_of_another_user_is_refused(self) -> None:
        """Behaviour 87: both ends count."""
        theirs = self.make_directory("theirs", 0o755)
        os.chown(theirs, OTHER, OTHER)
        (theirs / "out.db").symlink_to(self.path)
        self.path.symlink_to(theirs / "sessions.db")
        for path in (self.path, theirs / "out.db"):
            with self.subTest(path):
                await self.assert_refused(f"the directory {str(theirs)!r}", path)


class DirectoryTest(_Case):
    async def test_a_directory_that_everybody_may_write_is_refused(self) -> None:
        """Behaviour 87: also further up; it works as soon as that has ended."""
        shared = self.make_directory("shared", 0o777)
        (shared / "data").mkdir(mode=0o700)
        for path in (shared / "sessions.db", shared / "data" / "sessions.db"):
            with self.subTest(path):
                backend = await self.assert_refused(
                    f"everybody may replace it, as the directory {str(shared)!r} has"
                    " the mode 777. Run chmod o-w on that directory, or chmod +t if"
                    " others have to write there, or keep the file elsewhere. An"
                    " emptyDir of Kubernetes has the mode 777: let an init container"
                    " run chmod +t on it as root.",
                    path,
                )

                shared.chmod(0o755)
                self.assertIsNone(await backend.load(bytes(32)))
                shared.chmod(0o777)

    async def test_both_ends_of_a_link_count(self) -> None:
        """Behaviour 87: whoever may replace the link may replace the file."""
        shared = self.make_directory("shared", 0o777)
        own = self.make_directory("own", 0o700)
        (shared / "out.db").symlink_to(own / "sessions.db")
        (own / "in.db").symlink_to("../own/.././shared/sessions.db")
        for path in (shared / "out.db", own / "in.db"):
            with self.subTest(path):
                await self.assert_refused(f"the directory {str(shared)!r}", path)

    async def test_a_directory_that_its_group_may_write_is_told_once(self) -> None:
        """Behaviour 87: it may be meant, so it works."""
        shared = self.make_directory("shared", 0o775)
        (shared / "data").mkdir(mode=0o700)
        for path in (shared / "sessions.db", shared / "data" / "sessions.db"):
            with self.subTest(path), self.assertLogs("tornado_sessions") as logs:
                await self.use(path)

            [record] = logs.records
            self.assertEqual(
                record.getMessage(),
                f"Other users may replace the session database {str(path)!r} or"
                " the files beside it, as they may write the directory"
                f" {str(shared)!r} (mode 775). Unless that is meant, run: chmod"
                " go-w on that directory.",
            )

    async def test_a_sticky_directory_is_told_where_it_is_the_files_own(self) -> None:
        """Behaviour 87: nobody can replace the file, but make one beside it."""
        for mode in (0o1777, 0o1770):
            shared = self.make_directory(f"{mode:o}", mode)
            (shared / "data").mkdir(mode=0o700)
            with self.subTest(mode), self.assertLogs("tornado_sessions") as logs:
                await self.use(shared / "sessions.db")

            self.assertEqual(len(logs.records), 1)
            self.assertIn(f"(mode {mode:o})", logs.records[0].getMessage())
            with self.assertNoLogs("tornado_sessions"):
                await self.use(shared / "data" / "sessions.db")

    async def test_a_link_to_a_file_that_is_not_there_makes_it_for_its_owner(
        self,
    ) -> None:
        """Behaviour 69: with mode 0600, as without a link."""
        target = self.make_directory("data", 0o700) / "sessions.db"
        self.path.symlink_to(target)

        await self.use()

        self.assertEqual(target.stat().st_mode & 0o777, 0o600)

    async def test_links_in_a_circle_are_told(self) -> None:
        """Behaviour 66: it works as soon as they are gone."""
        self.path.symlink_to(self.path)
        backend = SQLiteBackend(self.path, timeout=20)

        with self.assertRaisesRegex(BackendError, "failed: Too many levels of"):
            await backend.load(bytes(32))

        self.path.unlink()
        self.assertIsNone(await backend.load(bytes(32)))
        await backend.close()


if __name__ == "__main__":
    unittest.main()
