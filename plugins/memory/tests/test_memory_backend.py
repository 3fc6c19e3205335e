"""What the memory backend does beyond the contract of all backends."""

from __future__ import annotations

import gc
import os
import random
import secrets
import subprocess
import sys
import textwrap
import unittest
from typing import Any

from tornado_sessions_memory import MemoryBackend
from tornado_sessions_memory.table import Table

from tornado_sessions.storage.backend import Backend, Record
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
        self.assertEqual(backend.max_memory, 256 * 1024 * 1024)
        self.assertEqual(backend.max_bytes, 65_536)

    async def test_it_never_holds_more_than_max_records(self) -> None:
        """Behaviour 71: a flood of sessions pushes out its own, and is counted."""
        backend = MemoryBackend(max_records=10)

        keys = await _insert(backend, *[None] * 50)

        self.assertEqual(await _present(backend, keys), keys[-10:])
        self.assertEqual(backend.evictions, 40)
        self.assertEqual(
            repr(backend),
            f"<MemoryBackend 10 of 10 records, {backend.memory} of 268435456 bytes>",
        )

    async def test_the_least_recently_saved_goes_first(self) -> None:
        """Behaviour 71: a save makes a session young again; a load does not."""
        backend = MemoryBackend(max_records=4)
        first, second, third, fourth = await _insert(backend, *[None] * 4)
        await _save_again(backend, second)
        await _save_again(backend, first)
        await backend.load(third)

        old = [third, fourth, second, first]
        for gone in range(1, 5):
            await _insert(backend, f"ann{gone}")
            self.assertEqual(await _present(backend, old), old[gone:])

    async def test_anonymous_sessions_go_before_those_of_users(self) -> None:
        """Behaviour 71: users are pushed out only where there is no one else."""
        backend = MemoryBackend(max_records=4)
        ann, nobody, bob, later = await _insert(backend, "ann", None, "bob", None)

        old = [nobody, later, ann, bob]
        for gone in range(1, 5):
            await _insert(backend, f"eve{gone}")
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

    async def test_each_bound_is_logged_at_its_first_eviction(self) -> None:
        """Behaviour 71: one warning says which option to raise, and to what."""
        for backend, bound, option in (
            (MemoryBackend(max_records=2), "2 sessions", "max_records=20"),
            (
                MemoryBackend(max_bytes=4, max_memory=999),
                "999 bytes",
                "max_memory=9990",
            ),
        ):
            with self.assertLogs("tornado_sessions", "WARNING") as logs:
                await _insert(backend, *[None] * 9)

            [message] = [record.getMessage() for record in logs.records]
            self.assertEqual(
                message,
                f"The session backend 'memory' is full: it holds at most {bound}, and"
                " from now on what is saved ends other sessions, anonymous ones first."
                f" Allow for more with session_backend='memory:?{option}', or use a"
                " backend that keeps sessions on disk, such as 'sqlite'.",
            )


class MostTest(unittest.IsolatedAsyncioTestCase):
    async def test_many_sessions_of_one_user_push_out_their_own(self) -> None:
        """Behaviour 71: 200 logins of one account leave everybody else signed in."""
        backend = MemoryBackend(max_records=50)
        others = await _insert(backend, *[f"user{i}" for i in range(40)])
        own = await _insert(backend, *["eve"] * 200)

        self.assertEqual(await _present(backend, others), others)
        self.assertEqual(await _present(backend, own), own[-10:])
        self.assertEqual(backend.evictions, 190)

    async def test_the_session_that_was_just_saved_counts(self) -> None:
        """Behaviour 71: a user's second session ends the first, and nobody else's."""
        backend = MemoryBackend(max_records=3)
        first, ann, bob = await _insert(backend, "eve", "ann", "bob")

        [second] = await _insert(backend, "eve")

        present = await _present(backend, [first, ann, bob, second])
        self.assertEqual(present, [ann, bob, second])

    async def test_of_several_who_have_most_each_loses_one(self) -> None:
        """Behaviour 71: nobody is left with less than others have."""
        backend = MemoryBackend(max_records=7)
        keys = await _insert(backend, *["ann", "bob", "dan"] * 2, "eve")

        await _insert(backend, "new0", "new1", "new2")

        self.assertEqual(await _present(backend, keys), keys[3:])

    async def test_whoever_has_most_may_change(self) -> None:
        """Behaviour 71: logins, logouts and evictions count at once."""
        backend = MemoryBackend(max_records=8)
        ann = await _insert(backend, *["ann"] * 5)
        bob = await _insert(backend, *["bob"] * 3)
        for key in ann[:3]:
            await backend.delete(key)
        await _save_again(backend, ann[3], user="dan")
        new = await _insert(backend, "eve", "fay", "guy")
        self.assertEqual(backend.evictions, 0)

        await _insert(backend, "hal")

        self.assertEqual(await _present(backend, bob), bob[1:])
        self.assertEqual(await _present(backend, ann[3:] + new), ann[3:] + new)

    async def test_a_user_is_as_young_as_their_last_save(self) -> None:
        """Behaviour 71: of those who have as many, the last to save goes last."""
        backend = MemoryBackend(max_records=4)
        ann, bob, *_ = await _insert(backend, "ann", "bob", "ann", "bob")
        await _save_again(backend, ann, user="ann")

        await _insert(backend, "eve")

        self.assertIsNotNone(await backend.load(ann))
        self.assertIsNone(await backend.load(bob))

    async def test_the_choice_is_as_if_all_were_counted(self) -> None:
        """Behaviour 71: 3,000 random steps end what a plain search would end."""
        generator = random.Random(71)
        backend = MemoryBackend(max_records=30)
        # The keys in the order of their last save, each with its user.
        users: dict[bytes, str | None] = {}
        for _ in range(3000):
            user = generator.choice([None, None, "a", "a", "b", "c", "d", "e"])
            step = generator.random()
            if users and step < 0.2:
                key = generator.choice(list(users))
                await backend.delete(key)
                del users[key]
                continue
            if users and step < 0.5:
                key = generator.choice(list(users))
                await _save_again(backend, key, user=user)
                del users[key]
            else:
                [key] = await _insert(backend, user)
            users[key] = user
            if len(users) > 30:
                [gone] = [each for each in users if await backend.load(each) is None]
                owners = list(users.values())
                self.assertNotEqual(gone, key)
                if users[gone] is None:
                    self.assertEqual(gone, next(k for k in users if users[k] is None))
                else:
                    self.assertNotIn(None, owners[:-1])
                    most = max(owners.count(name) for name in owners if name)
                    self.assertEqual(owners.count(users[gone]), most)
                    same = [each for each in users if users[each] == users[gone]]
                    self.assertEqual(gone, same[0])
                del users[gone]
            self.assertEqual(await _present(backend, list(users)), list(users))


class BytesTest(unittest.IsolatedAsyncioTestCase):
    async def test_it_never_takes_more_than_max_memory(self) -> None:
        """Behaviour 71: large anonymous sessions are bounded as a million small ones."""
        backend = MemoryBackend(max_bytes=65_536, max_memory=1_048_576)

        for size in [65_536] * 50 + [0, 100] * 2000 + [1000, 65_536] * 50:
            await backend.insert(_new_key(), Record(bytes(size)))
            self.assertLessEqual(backend.memory, 1_048_576)

        self.assertGreater(backend.evictions, 0)

    async def test_users_are_ended_by_the_same_rule(self) -> None:
        """Behaviour 71: it is the bound that differs, and not who goes."""
        ann, nobody, eve, old = [_new_key() for _ in range(4)]
        backend = MemoryBackend(max_bytes=10_000, max_memory=45_000)
        await backend.insert(ann, Record(bytes(10_000), user="ann"))
        await backend.insert(old, Record(bytes(9000), user="eve"))
        await backend.insert(eve, Record(bytes(9000), user="eve"))
        await backend.insert(nobody, Record(bytes(9000)))

        large = _new_key()
        await backend.insert(large, Record(bytes(10_000), user="bob"))
        keys = [ann, nobody, old, eve, large]
        self.assertEqual(await _present(backend, keys), [ann, old, eve, large])
        await backend.insert(nobody, Record(bytes(9000)))
        self.assertEqual(await _present(backend, keys), [ann, nobody, eve, large])

    async def test_a_session_that_grows_makes_others_go(self) -> None:
        """Behaviour 71: but never itself, though it is the oldest, or anonymous."""
        for user in (None, "ann"):
            backend = MemoryBackend(max_bytes=9500, max_memory=10_000)
            [key] = await _insert(backend, user)
            others = await _insert(backend, "bob", "bob", "eve")
            record = await backend.load(key)
            assert record is not None

            await backend.replace(
                key, Record(bytes(9500), expires=4e9, user=user), record.version
            )

            self.assertIsNotNone(await backend.load(key))
            self.assertEqual(await _present(backend, others), [])
            self.assertEqual(backend.evictions, 3)

    async def test_what_was_just_saved_stays_though_others_lose_several(self) -> None:
        """Behaviour 71: not even where somebody has fallen behind in between."""
        backend = MemoryBackend(max_bytes=3000, max_memory=4000)
        old = await _insert(backend, *["bob"] * 3, "eve")
        key = _new_key()

        await backend.insert(key, Record(bytes(3000), user="ann"))

        self.assertEqual(await _present(backend, [*old, key]), [key])

    async def test_a_session_of_max_bytes_always_fits(self) -> None:
        """Behaviour 71: where it is alone, nothing else can make room."""
        backend, key = MemoryBackend(max_bytes=1000, max_memory=1000), _new_key()

        await backend.insert(key, Record(bytes(1000), user="ann"))

        self.assertIsNotNone(await backend.load(key))
        self.assertEqual(backend.evictions, 0)

    @unittest.skipUnless(
        os.path.exists("/proc/self/statm"), "Only Linux says how large a process is."
    )
    def test_the_estimate_is_honest(self) -> None:
        """Behaviour 71: the process grows by no more than that, and not by far less."""
        for user in ("None", "f'user{i}'", "f'user{i // 4}'"):
            output = _in_a_process(
                f"""
                import gc, os

                def size():
                    with open("/proc/self/statm") as file:
                        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

                async def fill(backend):
                    for i in range(40_000):
                        record = Record(os.urandom(300), expires=4e9 + i // 8, user={user})
                        await backend.insert(os.urandom(32), record)

                backend = MemoryBackend()
                gc.collect()
                before = size()
                asyncio.run(fill(backend))
                gc.collect()
                print((size() - before) / backend.memory)
                """
            )

            self.assertLess(float(output), 1.05, user)
            self.assertGreater(float(output), 0.6, user)


class MemoryTest(unittest.IsolatedAsyncioTestCase):
    async def test_it_keeps_a_copy_of_what_can_change(self) -> None:
        """Behaviours 41, 64: what the caller can change is not held."""
        backend, key = MemoryBackend(), _new_key()
        data = bytearray(b"before")
        view: Any = memoryview(data)[:3]
        await backend.insert(key, Record(view))
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

        await backend.replace(key, Record(b"other"), record.version)

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
        table, empty = Table(), Table()
        for round_ in range(20):
            users = [None, "ann", f"user{round_}"] * 20
            entries = [
                table.insert(_new_key(), Record(b"data", user=user)) for user in users
            ]
            for entry in entries[:30]:
                table.remove(
                    table.replace(entry, Record(b"more", expires=round_ * 1000.0))
                )
            for entry in entries[30:]:
                table.remove(entry)

        owners = table.owners
        self.assertEqual((table.count, table.memory), (0, 0))
        self.assertEqual(table.shards, empty.shards)
        self.assertEqual(table.expiry.slots, {})
        self.assertEqual(owners.users, empty.owners.users)
        self.assertEqual((owners.peers, owners.most), ({}, 0))
        self.assertIsNone(owners.anonymous.first)
        self.assertIsNone(owners.anonymous.last)


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
        """Behaviours 65, 70: 20,000 expired records go by 100 at a time."""
        backend = MemoryBackend()
        late = await _insert(backend, *[None] * 10_000, expires=5_000_000.0)
        early = await _insert(backend, *[None] * 10_000, expires=1.0)
        living = await _insert(backend, None, expires=6_000_001.0)

        counts = [await backend.purge(6_000_000.0) for _ in range(100)]
        self.assertEqual(counts, [100] * 100)
        self.assertEqual(await _present(backend, early), [])
        self.assertEqual(len(await _present(backend, late)), 10_000)

        counts = [await backend.purge(6_000_000.0) for _ in range(101)]
        self.assertEqual(counts, [100] * 100 + [0])
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
            asyncio.run(backend.insert(KEY, Record(b"one")))
            if os.fork() == 0:
                for operation in every_operation(backend):
                    print(outcome(operation), flush=True)
                os._exit(0)
            os.wait()
            print(outcome(backend.load(KEY)))
            """
        )

        *child, parent = output.splitlines()
        self.assertEqual(len(child), 6)
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
            asyncio.run(backend.insert(KEY, Record(b"one")))
            tornado.process.fork_processes(1, max_restarts=0)
            for operation in every_operation(backend):
                print(outcome(operation), flush=True)
            os._exit(0)
            """
        )

        self.assertEqual(output, "worked\n" * 6)

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
            self.assertEqual(backend.max_memory, 268_435_456, url)
            self.assertIs(backend.any_process, False, url)

    def test_options_follow_a_question_mark(self) -> None:
        """Each option of the constructor is one of the URL."""
        backend = MemoryBackend.from_url(
            "memory:?max_records=7&max_bytes=8&max_memory=900&any_process=true", {}
        )

        self.assertEqual(backend.max_records, 7)
        self.assertEqual(backend.max_bytes, 8)
        self.assertEqual(backend.max_memory, 900)
        self.assertIs(backend.any_process, True)

    def test_an_unknown_option_is_refused(self) -> None:
        """The message names the closest, and those that there are."""
        self._assert_refused(
            "memory:?max_record=7",
            "The URL has an option that the session backend 'memory' does not have."
            " Did you mean 'max_records'? Its options are 'max_records', 'max_bytes', 'max_memory',"
            " 'any_process'.",
        )

    def test_a_bad_number_is_refused(self) -> None:
        """Behaviour 89: the message names the option, and does not repeat the value."""
        for text in ("many", "1.5", "", "²"):
            self._assert_refused(
                f"memory:?max_records={text}",
                "The option 'max_records' must be a whole number.",
            )

    def test_room_for_nothing_is_refused(self) -> None:
        """In code as in a URL: at the start, and not with the first session."""
        for option in ("max_records", "max_bytes"):
            message = f"The option '{option}' must be a whole number above zero."
            self._assert_refused(f"memory:?{option}=0", message)
            options: dict[str, Any] = {option: 0}
            with self.assertRaises(ValueError) as refused:
                MemoryBackend(**options)

            self.assertEqual(str(refused.exception), message)

    def test_less_memory_than_for_one_session_is_refused(self) -> None:
        """Behaviour 71: the message says what to do."""
        self._assert_refused(
            "memory:?max_bytes=5000&max_memory=4999",
            "The option 'max_memory' must be at least as large as 'max_bytes'. Raise"
            " the one or lower the other.",
        )

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
        await backend.insert(key, Record(b"data", expires=expires, user=user))
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
    await backend.replace(
        key, Record(record.data, expires=expires, user=user), record.version
    )


async def _present(backend: MemoryBackend, keys: list[bytes]) -> list[bytes]:
    return [key for key in keys if await backend.load(key) is not None]


def _in_a_process(code: str) -> str:
    """Runs ``code`` in a process of its own, as forks belong to it alone."""
    prelude = """
        import asyncio, os, tornado.process
        from tornado_sessions.storage.backend import Record
        from tornado_sessions.errors import BackendError
        from tornado_sessions_memory import MemoryBackend

        KEY = bytes(32)

        def every_operation(backend):
            yield backend.load(KEY)
            yield backend.insert(bytes([1] * 32), Record(b"one"))
            yield backend.delete(KEY)
            yield backend.purge(0.0)
            yield backend.ping()
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
