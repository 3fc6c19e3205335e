"""What the memory backend does beyond the contract of all backends."""

from __future__ import annotations

import gc
import os
import secrets
import subprocess
import sys
import textwrap
import unittest
from typing import Any

from tornado_sessions_memory import MemoryBackend

from tornado_sessions.backend import Backend, Record
from tornado_sessions.errors import SessionDataError
from tornado_sessions.testing import BackendContract


class MemoryBackendTest(BackendContract, unittest.IsolatedAsyncioTestCase):
    """The contract of all backends."""

    def make_backend(self) -> Backend:
        return MemoryBackend()


class CapacityTest(unittest.IsolatedAsyncioTestCase):
    async def test_it_holds_a_hundred_thousand_sessions_by_default(self) -> None:
        """Behaviour 71: the bounds without any option."""
        backend = MemoryBackend()

        self.assertEqual(backend.max_records, 100_000)
        self.assertEqual(backend.max_bytes, 1_048_576)

    async def test_it_never_holds_more_than_max_records(self) -> None:
        """Behaviour 71: a flood of sessions pushes out its own, and is counted."""
        backend = MemoryBackend(max_records=10)

        keys = await _insert(backend, *[None] * 50)

        self.assertEqual(await _present(backend, keys), keys[-10:])
        self.assertEqual(backend.evictions, 40)
        self.assertEqual(repr(backend), "<MemoryBackend 10 of 10 records>")

    async def test_the_least_recently_saved_goes_first(self) -> None:
        """Behaviour 71: a save makes a session young again; a load does not."""
        backend = MemoryBackend(max_records=4)
        first, second, third, fourth = await _insert(backend, *[None] * 4)
        await _save_again(backend, second)
        await _save_again(backend, first)
        await backend.load(third)

        old = [third, fourth, second, first]
        for gone in range(1, 5):
            await _insert(backend, "ann")
            self.assertEqual(await _present(backend, old), old[gone:])

    async def test_anonymous_sessions_go_before_those_of_users(self) -> None:
        """Behaviour 71: users are pushed out only where there is no one else."""
        backend = MemoryBackend(max_records=4)
        ann, nobody, bob, later = await _insert(backend, "ann", None, "bob", None)

        old = [nobody, later, ann, bob]
        for gone in range(1, 5):
            await _insert(backend, "eve")
            self.assertEqual(await _present(backend, old), old[gone:])

    async def test_a_flood_costs_one_user_at_most(self) -> None:
        """Behaviour 71: anonymous sessions make room for each other."""
        backend = MemoryBackend(max_records=4)
        users = await _insert(backend, "ann", "bob", "eve", "dan")

        await _insert(backend, *[None] * 50)

        self.assertEqual(await _present(backend, users), users[1:])

    async def test_a_login_and_a_logout_change_who_goes_first(self) -> None:
        """Behaviour 71: what counts is the user of the last save."""
        backend = MemoryBackend(max_records=2)
        was_nobody, was_ann = await _insert(backend, None, "ann")
        await _save_again(backend, was_nobody, user="ann")
        await _save_again(backend, was_ann, user=None)

        await _insert(backend, "eve")

        self.assertIsNotNone(await backend.load(was_nobody))
        self.assertIsNone(await backend.load(was_ann))

    async def test_what_was_evicted_is_not_found_any_more(self) -> None:
        """An evicted session is gone from its user's sessions, too."""
        backend = MemoryBackend(max_records=2)
        _, kept = await _insert(backend, "ann", "ann")

        await _insert(backend, "eve")

        self.assertEqual([key async for key, _ in backend.find("ann")], [kept])

    async def test_saving_again_evicts_nothing(self) -> None:
        """A full store has room for the sessions that it holds."""
        backend = MemoryBackend(max_records=2)
        keys = await _insert(backend, None, None)

        for key in keys:
            await _save_again(backend, key)

        self.assertEqual(backend.evictions, 0)

    async def test_deleting_makes_room(self) -> None:
        """A deleted session does not count."""
        backend = MemoryBackend(max_records=2)
        first, second = await _insert(backend, None, None)
        await backend.delete(first)

        await _insert(backend, None)

        self.assertIsNotNone(await backend.load(second))

    async def test_the_first_eviction_is_logged(self) -> None:
        """Behaviour 71: one warning says what happens and what to do."""
        backend = MemoryBackend(max_records=2)

        with self.assertLogs("tornado_sessions", "WARNING") as logs:
            await _insert(backend, *[None] * 9)

        [message] = [record.getMessage() for record in logs.records]
        self.assertEqual(
            message,
            "The session backend 'memory' is full: from now on each new session ends"
            " one of the 2 that it holds, anonymous ones first. Allow for more with"
            " session_backend='memory:?max_records=20', or use a backend that keeps"
            " sessions on disk, such as 'sqlite'.",
        )

    async def test_a_session_that_is_too_long_is_refused_with_both_numbers(
        self,
    ) -> None:
        """Behaviour 63: the message says how long it is and how long it may be."""
        backend = MemoryBackend(max_bytes=10)

        with self.assertRaisesRegex(SessionDataError, "takes 11 bytes;.* at most 10"):
            await backend.save(_new_key(), Record(bytes(11)))


class MemoryTest(unittest.IsolatedAsyncioTestCase):
    async def test_it_keeps_a_copy_of_what_can_change(self) -> None:
        """Behaviours 41, 64: what the caller can change is not held."""
        backend, key = MemoryBackend(), _new_key()
        data = bytearray(b"before")
        view: Any = memoryview(data)[:3]
        await backend.save(key, Record(view))
        data[:] = b"after!"

        record = await backend.load(key)

        assert record is not None
        self.assertEqual(record.data, b"bef")
        self.assertIs(type(record.data), bytes)

    async def test_a_loaded_record_stays_as_it_is(self) -> None:
        """Behaviour 41: what one request loaded is not changed by another's save."""
        backend = MemoryBackend()
        [key] = await _insert(backend, None)
        record = await backend.load(key)
        assert record is not None

        await backend.save(key, Record(b"other", record.version))

        self.assertEqual(record.data, b"data")

    async def test_each_key_is_kept_once(self) -> None:
        """Behaviour 71: of the equal keys of later requests none is kept."""
        backend = MemoryBackend()
        [key] = await _insert(backend, None)
        equal = bytes(bytearray(key))
        before = sys.getrefcount(equal)

        await _save_again(backend, equal)

        self.assertEqual(sys.getrefcount(equal), before)

    async def test_the_collector_has_nothing_to_look_at(self) -> None:
        """Behaviour 70: a record adds no object that a collection would visit."""
        backend = MemoryBackend()
        await _insert(backend, None, "ann")
        gc.collect()
        before = len(gc.get_objects())

        await _insert(backend, *[None, "ann", "bob"] * 1000)

        gc.collect()
        self.assertLess(len(gc.get_objects()) - before, 100)

    async def test_nothing_is_left_of_what_is_gone(self) -> None:
        """Behaviour 71: sessions that come and go leave nothing to grow."""
        backend = MemoryBackend()
        for round_ in range(20):
            keys = await _insert(backend, *[None, "ann", f"user{round_}"] * 20)
            for key in keys[:30]:
                await _save_again(backend, key, expires=round_ * 1000.0)
            for key in keys:
                await backend.delete(key)

        empty, attributes = vars(MemoryBackend()), vars(backend)
        for name in ("_shards", "_users", "_slots", "_count"):
            self.assertEqual(attributes[name], empty[name], name)
        self.assertIsNone(attributes["_anonymous"].first)
        self.assertIsNone(attributes["_anonymous"].last)
        self.assertIsNone(attributes["_signed_in"].first)
        self.assertIsNone(attributes["_signed_in"].last)


class FindTest(unittest.IsolatedAsyncioTestCase):
    async def test_who_has_changed_meanwhile_is_passed_over(self) -> None:
        """Behaviour 46: what another user got between two answers is not answered."""
        backend = MemoryBackend()
        keys = await _insert(backend, "ann", "ann", "ann")

        found = backend.find("ann")
        first, _ = await found.__anext__()
        keys.remove(first)
        await _save_again(backend, keys[0], user="bob")
        await _save_again(backend, keys[1], user="ann")

        self.assertEqual([key async for key, _ in found], [keys[1]])


class PurgeTest(unittest.IsolatedAsyncioTestCase):
    async def test_each_batch_is_small_and_the_earliest_go_first(self) -> None:
        """Behaviours 65, 70: 20,000 expired records go by 250 at a time."""
        backend = MemoryBackend()
        late = await _insert(backend, *[None] * 10_000, expires=5_000_000.0)
        early = await _insert(backend, *[None] * 10_000, expires=1.0)
        living = await _insert(backend, None, expires=6_000_001.0)

        counts = [await backend.purge(6_000_000.0) for _ in range(40)]
        self.assertEqual(counts, [250] * 40)
        self.assertEqual(await _present(backend, early), [])
        self.assertEqual(len(await _present(backend, late)), 10_000)

        counts = [await backend.purge(6_000_000.0) for _ in range(41)]
        self.assertEqual(counts, [250] * 40 + [0])
        self.assertEqual(await _present(backend, early + late + living), living)

    async def test_a_record_is_purged_at_most_a_second_late(self) -> None:
        """Behaviour 65: never before its expiry, and by the next full second after."""
        backend = MemoryBackend()
        [key] = await _insert(backend, None, expires=1000.25)

        for now, removed in ((1000.2, 0), (1000.25, 0), (1001.1, 1), (2000.0, 0)):
            self.assertEqual(await backend.purge(now), removed, now)
        self.assertIsNone(await backend.load(key))

    async def test_what_expires_first_need_not_be_saved_first(self) -> None:
        """Behaviour 65: a record that lives on stands in the way of none."""
        backend = MemoryBackend()
        [living] = await _insert(backend, None, expires=20.0)
        [expired] = await _insert(backend, None, expires=10.0)

        self.assertEqual(await backend.purge(15.0), 1)
        self.assertEqual(await _present(backend, [living, expired]), [living])

    async def test_what_is_of_the_distant_past_is_purged(self) -> None:
        """It goes with the first purge; zero alone is for never."""
        backend = MemoryBackend()
        await _insert(backend, None, None, expires=-0.5)
        await _insert(backend, None, expires=-1e12)
        await _insert(backend, None, expires=0.0)

        self.assertEqual(await backend.purge(1.0), 3)
        self.assertEqual(await backend.purge(1e12), 0)


class ProcessTest(unittest.IsolatedAsyncioTestCase):
    def test_a_forked_process_is_refused(self) -> None:
        """Behaviour 67: after a fork the child has sessions that nobody shares."""
        output = _in_a_process(
            """
            backend = MemoryBackend()
            asyncio.run(backend.save(KEY, Record(b"one")))
            if os.fork() == 0:
                for operation in every_operation(backend):
                    print(outcome(operation), flush=True)
                os._exit(0)
            os.wait()
            print(outcome(backend.load(KEY)))
            """
        )

        *child, parent = output.splitlines()
        self.assertEqual(len(child), 5)
        for line in child:
            self.assertRegex(line, r"BackendError: .* process \d+ was forked .*sqlite")
            self.assertIn("session_backend='memory:?any_process=true'", line)
        self.assertEqual(parent, "worked")

    def test_a_process_of_tornado_is_refused(self) -> None:
        """Behaviour 67: under `tornado.process` also a backend that opens late."""
        output = _in_a_process(
            """
            tornado.process.fork_processes(2, max_restarts=0)
            print(outcome(MemoryBackend().load(KEY)) + "\\n", end="", flush=True)
            os._exit(0)
            """
        )

        self.assertEqual(len(output.splitlines()), 2)
        for line in output.splitlines():
            self.assertTrue(line.startswith("BackendError"), line)

    def test_a_fork_before_the_first_use_is_allowed(self) -> None:
        """Behaviour 67: what counts is the process that used it first."""
        output = _in_a_process(
            """
            backend = MemoryBackend()
            if os.fork() == 0:
                print(outcome(backend.load(KEY)), flush=True)
                os._exit(0)
            os.wait()
            """
        )

        self.assertEqual(output, "worked\n")

    def test_any_process_allows_it(self) -> None:
        """Behaviour 67: whoever says so has sessions in each process."""
        output = _in_a_process(
            """
            backend = MemoryBackend.from_url("memory:?any_process=true", {})
            asyncio.run(backend.save(KEY, Record(b"one")))
            tornado.process.fork_processes(1, max_restarts=0)
            for operation in every_operation(backend):
                print(outcome(operation), flush=True)
            os._exit(0)
            """
        )

        self.assertEqual(output, "worked\n" * 5)

    async def test_closing_drops_all_sessions(self) -> None:
        """Closed means forgotten; the backend begins anew."""
        backend = MemoryBackend()
        keys = await _insert(backend, None, "ann")

        await backend.close()

        self.assertEqual(await _present(backend, keys), [])
        self.assertEqual([found async for found in backend.find("ann")], [])
        self.assertEqual(await backend.purge(float("inf")), 0)


class URLTest(unittest.TestCase):
    def test_a_bare_name_has_all_defaults(self) -> None:
        """The backend is chosen with its name, with or without a colon."""
        for url in ("memory", "memory:", "memory://", "memory:?"):
            backend = MemoryBackend.from_url(url, {})
            self.assertEqual(backend.max_records, 100_000, url)
            self.assertEqual(backend.max_bytes, 1_048_576, url)
            self.assertIs(backend.any_process, False, url)

    def test_options_follow_a_question_mark(self) -> None:
        """Each option of the constructor is one of the URL."""
        backend = MemoryBackend.from_url(
            "memory:?max_records=7&max_bytes=8&any_process=true", {}
        )

        self.assertEqual(backend.max_records, 7)
        self.assertEqual(backend.max_bytes, 8)
        self.assertIs(backend.any_process, True)

    def test_an_unknown_option_is_refused(self) -> None:
        """The message names it, and those that there are."""
        self._assert_refused(
            "memory:?max_record=7",
            "The session backend 'memory' has no option 'max_record'."
            " Its options are 'max_records', 'max_bytes', 'any_process'.",
        )

    def test_a_bad_number_is_refused(self) -> None:
        """The message names the option and its value."""
        for text in ("many", "1.5", "", "²"):
            self._assert_refused(
                f"memory:?max_records={text}",
                f"The option 'max_records' must be a whole number, not {text!r}.",
            )

    def test_room_for_nothing_is_refused(self) -> None:
        """In code as in a URL: at the start, and not with the first session."""
        for option in ("max_records", "max_bytes"):
            message = f"The option '{option}' must be a whole number above zero, not 0."
            self._assert_refused(f"memory:?{option}=0", message)
            options: dict[str, Any] = {option: 0}
            with self.assertRaises(ValueError) as refused:
                MemoryBackend(**options)

            self.assertEqual(str(refused.exception), message)

    def test_a_host_or_a_path_is_refused(self) -> None:
        """The message does not repeat what may hold a password."""
        for url in ("memory://me:hunter2@host", "memory:///a/file", "memory:#here"):
            self._assert_refused(
                url,
                "The session backend 'memory' takes no host, path or fragment."
                " Write session_backend='memory:', and its options after a '?'.",
            )

    def _assert_refused(self, url: str, message: str) -> None:
        with self.assertRaises(ValueError) as refused:
            MemoryBackend.from_url(url, {})
        self.assertEqual(str(refused.exception), message)


def _new_key() -> bytes:
    return secrets.token_bytes(32)


async def _insert(
    backend: MemoryBackend, *users: str | None, expires: float = 4e9
) -> list[bytes]:
    """Inserts a record for each user and answers their keys."""
    keys = [_new_key() for _ in users]
    for key, user in zip(keys, users, strict=True):
        await backend.save(key, Record(b"data", None, expires, user))
    return keys


async def _save_again(
    backend: MemoryBackend,
    key: bytes,
    *,
    user: str | None = None,
    expires: float = 4e9,
) -> None:
    record = await backend.load(key)
    assert record is not None
    await backend.save(key, Record(record.data, record.version, expires, user))


async def _present(backend: MemoryBackend, keys: list[bytes]) -> list[bytes]:
    return [key for key in keys if await backend.load(key) is not None]


def _in_a_process(code: str) -> str:
    """Runs ``code`` in a process of its own, as forks belong to it alone."""
    prelude = """
        import asyncio, os, tornado.process
        from tornado_sessions.backend import Record
        from tornado_sessions.errors import BackendError
        from tornado_sessions_memory import MemoryBackend

        KEY = bytes(32)

        def every_operation(backend):
            yield backend.load(KEY)
            yield backend.save(bytes([1] * 32), Record(b"one"))
            yield backend.delete(KEY)
            yield backend.purge(0.0)
            yield anext(backend.find("ann"), None)

        def outcome(operation):
            async def run():
                await operation
            try:
                asyncio.run(run())
            except BackendError as error:
                return f"BackendError: {error}"
            return "worked"
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(prelude) + textwrap.dedent(code)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    return done.stdout


if __name__ == "__main__":
    unittest.main()
