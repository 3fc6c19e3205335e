"""Tests of the vault: tokens, digests, and what reaches the backend."""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
import string
import unittest
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tornado_sessions_memory import MemoryBackend

from tornado_sessions import (
    UNKNOWN,
    BackendError,
    ConflictError,
    Record,
    SessionDataError,
    SessionError,
    Vault,
    Version,
)
from tornado_sessions.storage.outdated import OutdatedRecord
from tornado_sessions.storage.pools import PoolBackend
from tornado_sessions.storage.vault import ForeignRecord, fingerprint

ALPHABET = string.ascii_letters + string.digits + "-_"
TOKEN = "A" * 43
OTHER = "B" * 42 + "A"

MALFORMED = {
    "empty": "",
    "too short": TOKEN[1:],
    "too long": TOKEN + "A",
    "padded": TOKEN + "=",
    "standard base64": "+/" + TOKEN[2:],
    "not canonical": TOKEN[:42] + "B",
    "NUL": TOKEN[:42] + "\0",
    "NUL at the end": TOKEN + "\0",
    "line feed at the end": TOKEN + "\n",
    "CR LF": TOKEN[:41] + "\r\n",
    "space before": " " + TOKEN[1:],
    "path": "../../etc/passwd",
    "path of 43 characters": "../" * 14 + "A",
    "MongoDB operator": "$ne",
    "SQL": "' OR 1=1",
    "quoted": f'"{TOKEN[2:]}"',
    "percent": "%41" + TOKEN[3:],
    "letter beyond ASCII": "é" + TOKEN[1:],
    "digit beyond ASCII": "\u0661" + TOKEN[1:],
    "wide letter": "\uff21" + TOKEN[1:],
    "lone surrogate": "\ud800" + TOKEN[1:],
    "64 KiB": "A" * 65_536,
    "64 KiB of tokens": TOKEN * 1_524,
}


class RecordingBackend(MemoryBackend):
    """A backend in memory that notes what reached it."""

    def __init__(self) -> None:
        super().__init__()
        self.keys: list[bytes] = []
        self.records: dict[bytes, Record] = {}
        self.kind = Record

    async def load(self, key: bytes) -> Record | None:
        self.keys.append(key)
        record = await super().load(key)
        if record is None:
            return None
        return self.kind(record.data, record.version)

    async def insert(self, key: bytes, record: Record) -> Version | None:
        self.keys.append(key)
        version = await super().insert(key, record)
        self.records[key] = record
        return version

    async def replace(
        self, key: bytes, record: Record, version: Version
    ) -> Version | None:
        self.keys.append(key)
        self.records[key] = record
        return await super().replace(key, record, version)

    async def delete(self, key: bytes) -> None:
        self.keys.append(key)
        await super().delete(key)


class SwappingBackend(RecordingBackend):
    """A backend that answers what is stored under another key."""

    async def load(self, key: bytes) -> Record | None:
        return next(iter(self.records.values()), None)


class TakenBackend(RecordingBackend):
    """A backend that has every one of the first few keys already."""

    def __init__(self, taken: int) -> None:
        super().__init__()
        self.taken = taken

    async def insert(self, key: bytes, record: Record) -> Version | None:
        if len(self.keys) < self.taken:
            await MemoryBackend.insert(self, key, Record(b"somebody else's"))
        return await super().insert(key, record)


class TwoServersBackend(RecordingBackend, PoolBackend):
    """A backend of two servers, of which one is down; a key's first bit chooses."""

    def __init__(self, *, known: bool) -> None:
        super().__init__()
        self.known = known
        self.down = {0}

    def is_down(self, key: bytes) -> bool:
        return self.known and len(self.down) == 1 and key[0] >> 7 in self.down

    async def insert(self, key: bytes, record: Record) -> Version | None:
        self._fail_if_down(key)
        return await super().insert(key, record)

    async def replace(
        self, key: bytes, record: Record, version: Version
    ) -> Version | None:
        self._fail_if_down(key)
        return await super().replace(key, record, version)

    def _fail_if_down(self, key: bytes) -> None:
        if key[0] >> 7 in self.down:
            self.keys.append(key)
            self.known = True
            raise BackendError("The server of this key is down.")


class TokenTest(unittest.IsolatedAsyncioTestCase):
    def setUp(self) -> None:
        self.backend = RecordingBackend()
        self.vault = Vault(self.backend)

    async def test_a_token_is_32_bytes_in_base64url(self) -> None:
        """Behaviour 5: 43 characters, canonical, no structure."""
        tokens = [(await self.vault.insert(Record(b"data"))).token for _ in range(200)]

        for token in tokens:
            assert re.fullmatch(r"[A-Za-z0-9_-]{43}", token)
            raw = base64.urlsafe_b64decode(token + "=")
            assert len(raw) == 32
            assert base64.urlsafe_b64encode(raw).decode() == token + "="
        assert len(set(tokens)) == 200
        # Of 42 places each of 64 characters is missing with next to no chance.
        assert set("".join(token[:42] for token in tokens)) == set(ALPHABET)

    async def test_every_character_may_be_the_last_that_can(self) -> None:
        """Behaviour 3: sixteen of the sixty-four, and no other."""
        taken = ""
        for last in ALPHABET:
            self.backend.keys.clear()
            await self.vault.load("A" * 42 + last)
            taken += last if self.backend.keys else ""

        assert sorted(taken) == sorted("AEIMQUYcgkosw048")

    async def test_a_malformed_token_never_reaches_the_backend(self) -> None:
        """Behaviour 3: neither to be loaded nor to be deleted, and nothing raises."""
        for case, token in MALFORMED.items():
            with self.subTest(case):
                assert await self.vault.load(token) is None
                await self.vault.delete(token)
                assert self.backend.keys == []

    async def test_an_unknown_token_is_none(self) -> None:
        """Behaviours 1, 4: and nothing is created."""
        assert await self.vault.load(TOKEN) is None
        assert len(self.backend.keys) == 1
        assert self.backend.records == {}

    async def test_a_broken_generator_fails_the_request(self) -> None:
        """Behaviour 5: there is no fallback."""

        def broken(size: int | None = None) -> str:
            # As os.urandom() does.
            raise NotImplementedError("no source of randomness")

        with (
            mock.patch.object(secrets, "token_urlsafe", broken),
            pytest.raises(NotImplementedError),
        ):
            await self.vault.insert(Record(b"data"))

        assert self.backend.keys == []

    async def test_a_token_is_kept_when_its_record_is_replaced(self) -> None:
        """A client learns of a new token only when there is one."""
        token = (await self.vault.insert(Record(b"first"))).token
        record = await self.vault.load(token)
        assert record is not None

        saved = await self.vault.replace(token, Record(b"second"), record.version)
        assert saved.token == token
        record = await self.vault.load(token)
        assert record is not None
        assert record.data == b"second"

    async def test_a_conflict_of_a_known_token_is_passed_on(self) -> None:
        """No other token is drawn for it."""
        token = (await self.vault.insert(Record(b"data"))).token
        record = await self.vault.load(token)
        assert record is not None
        await self.vault.replace(token, Record(b"data"), record.version)
        self.backend.keys.clear()

        with pytest.raises(ConflictError):
            await self.vault.replace(token, Record(b"data"), record.version)

        assert len(self.backend.keys) == 1

    async def test_the_version_of_a_write_is_valid_for_the_next_one(self) -> None:
        """Behaviour 26: whoever stored a record need not load it to replace it."""
        token, version = await self.vault.insert(Record(b"first"))
        token, version = await self.vault.replace(token, Record(b"second"), version)
        key = self.vault.key_of(token)
        version = await self.vault.replace_found(Record(b"third"), version)

        record = await self.vault.load_found(key)
        assert record is not None
        assert record.data == b"third"
        assert record.version == version

    async def test_a_version_that_the_store_does_not_report_is_unknown(self) -> None:
        """A store such as memcached reports versions only to a load."""

        class SilentBackend(MemoryBackend):
            async def insert(self, key: bytes, record: Record) -> Version | None:
                return await super().insert(key, record) and UNKNOWN

            async def replace(
                self, key: bytes, record: Record, version: Version
            ) -> Version | None:
                return await super().replace(key, record, version) and UNKNOWN

        vault = Vault(SilentBackend())
        token, version = await vault.insert(Record(b"first"))
        assert version is UNKNOWN
        record = await vault.load(token)
        assert record is not None
        saved = await vault.replace(token, Record(b"second"), record.version)
        assert saved == (token, UNKNOWN)

    async def test_a_deleted_token_is_unknown(self) -> None:
        """Behaviour 44: and deleting it twice is allowed."""
        token = (await self.vault.insert(Record(b"data"))).token
        await self.vault.delete(token)
        await self.vault.delete(token)

        assert await self.vault.load(token) is None


class SizeTest(unittest.IsolatedAsyncioTestCase):
    """The core checks the size of a record, so no backend has to."""

    def setUp(self) -> None:
        self.backend = RecordingBackend()
        self.vault = Vault(self.backend)
        # 16 bytes of each record are those of its key.
        self.backend.max_bytes = 26

    async def test_a_record_of_max_bytes_is_stored(self) -> None:
        """Behaviour 63: the limit is included."""
        token, version = await self.vault.insert(Record(b"x" * 10))
        await self.vault.replace(token, Record(b"y" * 10), version)

        record = await self.vault.load(token)
        assert record is not None
        assert record.data == b"y" * 10

    async def test_one_byte_more_never_reaches_the_backend(self) -> None:
        """Behaviour 63: neither in a new record nor in place of another."""
        token, version = await self.vault.insert(Record(b"old"))
        self.backend.keys.clear()

        for write in (
            lambda: self.vault.insert(Record(b"x" * 11)),
            lambda: self.vault.replace(token, Record(b"x" * 11), version),
            lambda: self.vault.replace_found(Record(b"x" * 11), version),
        ):
            with pytest.raises(SessionDataError) as caught:
                await write()
            assert str(caught.value) == (
                "The session takes 27 bytes; RecordingBackend holds at most 26. Keep"
                " less in it, or set the option 'max_bytes', such as in the URL:"
                " '?max_bytes=54'."
            )
        assert self.backend.keys == []

    async def test_without_a_limit_any_size_is_stored(self) -> None:
        """A ``max_bytes`` of None is no limit."""
        self.backend.max_bytes = None  # type: ignore[assignment]
        await self.vault.insert(Record(b"x" * 100_000))


class CollisionTest(unittest.IsolatedAsyncioTestCase):
    async def test_a_taken_token_is_drawn_again(self) -> None:
        """Behaviour 6: three tries, and whoever was there keeps their record."""
        backend = TakenBackend(taken=2)
        token = (await Vault(backend).insert(Record(b"data"))).token

        assert len(set(backend.keys)) == 3
        record = await Vault(backend).load(token)
        assert record is not None
        assert record.data == b"data"
        for key in backend.keys[:2]:
            stored = await MemoryBackend.load(backend, key)
            assert stored is not None
            assert stored.data == b"somebody else's"

    async def test_three_taken_tokens_are_an_error(self) -> None:
        """Behaviour 6: that is no coincidence."""
        backend = TakenBackend(taken=99)
        with pytest.raises(BackendError) as caught:
            await Vault(backend).insert(Record(b"data"))

        assert str(caught.value) == (
            "Three fresh session ids in a row were taken already. The store answers"
            " for keys that it cannot know, or the operating system's random"
            " generator is broken."
        )
        assert len(set(backend.keys)) == 3


class AvoidanceTest(unittest.IsolatedAsyncioTestCase):
    async def test_no_key_is_drawn_whose_server_is_down(self) -> None:
        """Behaviour 66: new sessions go to the servers that are up."""
        backend = TwoServersBackend(known=True)
        vault = Vault(backend)

        for _ in range(20):
            await vault.insert(Record(b"data"))

        self.assertEqual(len(backend.records), 20)
        self.assertEqual({key[0] >> 7 for key in backend.keys}, {1})

    async def test_an_insert_that_failed_for_its_key_is_tried_with_another(
        self,
    ) -> None:
        """Behaviour 66: whoever finds out that a server is down is served as well."""
        for _ in range(20):
            backend = TwoServersBackend(known=False)
            vault = Vault(backend)

            token = (await vault.insert(Record(b"data"))).token

            record = await vault.load(token)
            assert record is not None
            self.assertEqual(record.data, b"data")

    async def test_with_all_servers_down_an_insert_fails_at_once(self) -> None:
        """Behaviour 66: no other key would fare better."""
        backend = TwoServersBackend(known=False)
        backend.down = {0, 1}

        with self.assertRaisesRegex(BackendError, "is down"):
            await Vault(backend).insert(Record(b"data"))

        self.assertEqual(len(backend.keys), 1)

    async def test_three_inserts_that_fail_for_their_keys_are_an_error(self) -> None:
        """Behaviour 66: a request does not go through all servers of a large pool."""
        backend = TwoServersBackend(known=False)
        backend.down = {0, 1}

        with (
            mock.patch.object(backend, "is_down", return_value=True),
            self.assertRaisesRegex(BackendError, "is down"),
        ):
            await Vault(backend).insert(Record(b"data"))

        self.assertEqual(len(backend.keys), 3)

    async def test_a_save_that_failed_is_not_tried_elsewhere(self) -> None:
        """Behaviour 30: a session stays where it is, and its token what it is."""
        backend = TwoServersBackend(known=True)
        vault = Vault(backend)
        token = (await vault.insert(Record(b"old"))).token
        record = await vault.load(token)
        assert record is not None
        backend.down = {1}

        with self.assertRaisesRegex(BackendError, "is down"):
            await vault.replace(token, Record(b"new"), record.version)

        self.assertEqual(len(backend.records), 1)


class DigestTest(unittest.IsolatedAsyncioTestCase):
    def setUp(self) -> None:
        self.backend = RecordingBackend()
        self.vault = Vault(self.backend)

    async def test_the_backend_sees_a_digest_alone(self) -> None:
        """Behaviour 7: the token is in neither key nor record, in no form."""
        tokens = [(await self.vault.insert(Record(b"data"))).token for _ in range(20)]
        dump = b"\n".join(k + r.data for k, r in self.backend.records.items())

        for token in tokens:
            raw = base64.urlsafe_b64decode(token + "=")
            for form in (
                token.encode(),
                raw,
                raw.hex().encode(),
                base64.b64encode(raw),
                base64.b64encode(token.encode()).rstrip(b"="),
                token.encode().hex().encode(),
            ):
                assert form not in dump

    async def test_a_key_is_the_digest_of_domain_and_token(self) -> None:
        """Behaviour 7: records outlive a release, so this never changes."""
        await self.vault.load(TOKEN)
        await Vault(self.backend, "shop").load(TOKEN)

        assert self.backend.keys == [
            hashlib.sha256(b"tornado_sessions\0\0" + TOKEN.encode()).digest(),
            hashlib.sha256(b"tornado_sessions\0shop\0" + TOKEN.encode()).digest(),
        ]

    async def test_a_digest_is_no_token(self) -> None:
        """Behaviour 7: whoever reads the store gets into no session."""
        await self.vault.insert(Record(b"data"))
        (key,) = self.backend.records

        for token in (
            key.hex(),
            base64.urlsafe_b64encode(key).decode(),
            base64.urlsafe_b64encode(key).decode().rstrip("="),
            key.decode("latin-1"),
        ):
            assert await self.vault.load(token) is None

    async def test_two_namespaces_never_see_each_other(self) -> None:
        """Neither reads, replaces nor deletes what is the other's."""
        shop, blog = Vault(self.backend, "shop"), Vault(self.backend, "blog")
        token = (await shop.insert(Record(b"data"))).token
        await blog.delete(token)

        assert await blog.load(token) is None
        assert await self.vault.load(token) is None
        assert await shop.load(token) is not None

    async def test_a_namespace_may_be_any_text(self) -> None:
        """It is no part of a path or a query."""
        vault = Vault(self.backend, "ü' OR 1=1/../\n")
        token = (await vault.insert(Record(b"data"))).token

        assert await vault.load(token) is not None


class BindingTest(unittest.IsolatedAsyncioTestCase):
    async def test_a_record_comes_back_to_the_byte(self) -> None:
        """Behaviour 63: empty, and all 256 values."""
        vault = Vault(MemoryBackend())
        for data in (b"", bytes(range(256)), b"\0" * 1000):
            record = await vault.load((await vault.insert(Record(data))).token)

            assert record is not None
            assert record.data == data

    async def test_an_answer_for_another_key_is_refused(self) -> None:
        """Behaviours 33, 84: nothing of it is returned, nor its version."""
        backend = SwappingBackend()
        vault = Vault(backend)
        token = (await vault.insert(Record(b"somebody else's"))).token

        assert await vault.load(token) is not None
        assert await vault.load(TOKEN) == ForeignRecord(b"")

    async def test_a_record_copied_under_another_key_is_refused(self) -> None:
        """Behaviour 33: whoever can write to the store takes no session over."""
        backend = RecordingBackend()
        vault = Vault(backend)
        await vault.insert(Record(b"somebody else's"))
        (stolen,) = backend.records.values()
        await vault.load(OTHER)
        await backend.insert(backend.keys[-1], Record(stolen.data))

        assert await vault.load(OTHER) == ForeignRecord(b"")

    async def test_a_cut_record_is_refused(self) -> None:
        """Behaviour 33: a store that answers half of it answers nothing."""
        backend = RecordingBackend()
        vault = Vault(backend)
        await vault.load(TOKEN)
        (key,) = backend.keys
        for data in (b"", key[:15]):
            await backend.insert(key, Record(data))
            assert await vault.load(TOKEN) == ForeignRecord(b"")
            await backend.delete(key)

    async def test_expiry_and_user_reach_the_backend(self) -> None:
        """What the store needs for its own clean-up and for `find`."""
        backend = RecordingBackend()
        await Vault(backend).insert(Record(b"data", expires=5.0, user="ada"))
        (record,) = backend.records.values()

        assert (record.expires, record.user, record.version) == (5.0, "ada", None)

    async def test_an_outdated_record_stays_one(self) -> None:
        """Behaviour 60: from a store that is being replaced."""
        backend = RecordingBackend()
        vault = Vault(backend)
        token = (await vault.insert(Record(b"data"))).token
        for kind in (Record, OutdatedRecord):
            backend.kind = kind

            assert type(await vault.load(token)) is kind


class PassingOnTest(unittest.IsolatedAsyncioTestCase):
    async def test_purging_is_the_backends_work(self) -> None:
        """One batch, of what expired before the given time."""
        vault = Vault(MemoryBackend())
        for expires in (1.0, 2.0, 30.0):
            await vault.insert(Record(b"data", expires=expires))

        assert await vault.purge(10.0) == 2
        assert await vault.purge(10.0) == 0

    async def test_closing_closes_the_backend(self) -> None:
        """Memory forgets everything then."""
        vault = Vault(MemoryBackend())
        token = (await vault.insert(Record(b"data"))).token
        await vault.close()

        assert await vault.load(token) is None

    def test_it_can_revoke(self) -> None:
        """A deleted record is dead wherever its token went."""
        assert Vault.revocable is True


class FindTest(unittest.IsolatedAsyncioTestCase):
    async def test_it_answers_what_load_does(self) -> None:
        """Behaviour 46: data and version, and a key to delete it by."""
        vault = Vault(MemoryBackend())
        token = (await vault.insert(Record(b"one", user="ada"))).token
        await vault.insert(Record(b"two", user="eve"))

        [(key, found)] = [each async for each in vault.find("ada")]
        loaded = await vault.load(token)
        assert loaded is not None
        assert (found.data, found.version) == (loaded.data, loaded.version)

        await vault.delete_found(key)
        assert await vault.load(token) is None

    async def test_a_record_of_another_key_is_foreign(self) -> None:
        """Behaviours 33, 84: it was copied there, and nothing of it is returned."""
        backend = MemoryBackend()
        vault = Vault(backend)
        await vault.insert(Record(b"one", user="ada"))
        [(_, record)] = [each async for each in backend.find("ada")]
        await backend.insert(b"k" * 32, Record(record.data, user="ada"))

        found = dict([each async for each in vault.find("ada")])
        assert len(found) == 2
        assert found[b"k" * 32] == ForeignRecord(b"")

    async def test_two_namespaces_share_no_user(self) -> None:
        """Behaviour 46: also where namespace and user make the same text."""
        backend = MemoryBackend()
        shop, shop2 = Vault(backend, "shop"), Vault(backend, "shop2")
        await shop.insert(Record(b"one", user="2ada"))

        assert [each async for each in shop2.find("ada")] == []
        assert len([each async for each in shop.find("2ada")]) == 1

    async def test_two_namespaces_list_no_user_of_each_other(self) -> None:
        """Behaviour 101: a name of another one is cut nowhere but after its namespace."""
        backend = MemoryBackend()
        shop, shop2 = Vault(backend, "shop"), Vault(backend, "shop2")
        await shop.insert(Record(b"one", user="ada"))
        await shop.insert(Record(b"nobody's"))
        await shop2.insert(Record(b"two", user="shop:ada"))

        for vault, data, user in ((shop, b"one", "ada"), (shop2, b"two", "shop:ada")):
            [(key, record)] = [each async for each in vault.find_all()]
            assert (record.data, record.user) == (data, user)
            found = await vault.load_found(key)
            assert found is not None
            assert record.version == found.version

    async def test_find_all_marks_what_was_stored_for_another_key(self) -> None:
        """Behaviour 33: as `find` does."""
        backend = MemoryBackend()
        await backend.insert(b"k" * 32, Record(b"one", user="ada"))

        [(_, record)] = [each async for each in Vault(backend).find_all()]
        assert record == ForeignRecord(b"", user="ada")

    async def test_without_finds_all_an_error_says_so(self) -> None:
        """Behaviour 101: with the name of what cannot, and what can."""

        class Forgetful(MemoryBackend):
            finds_all = False

        class SealedVault(Vault):
            def __init__(self) -> None:
                pass

        for vault, name in (
            (Vault(Forgetful()), "Forgetful"),
            (SealedVault(), "SealedVault"),
        ):
            with pytest.raises(SessionError) as caught:
                [each async for each in vault.find_all()]
            assert str(caught.value) == (
                f"{name} cannot list the sessions of all users. Use a backend that"
                " declares finds_all, such as 'sqlite'."
            )

    async def test_without_finds_by_user_an_error_says_so(self) -> None:
        """Behaviour 46: with the name of what cannot, and what can."""

        class Forgetful(MemoryBackend):
            finds_by_user = False

        class SealedVault(Vault):
            def __init__(self) -> None:
                pass

        for vault, name in (
            (Vault(Forgetful()), "Forgetful"),
            (SealedVault(), "SealedVault"),
        ):
            with pytest.raises(SessionError) as caught:
                [each async for each in vault.find("ada")]
            assert str(caught.value) == (
                f"{name} cannot look up the sessions of a user. Use a backend that"
                " declares finds_by_user, such as 'sqlite'."
            )
            with pytest.raises(SessionError) as caught:
                await vault.end_before("ada", 1.0, None)
            assert str(caught.value) == (
                f"{name} cannot end the sessions of a user. Use a backend that declares"
                " finds_by_user, such as 'sqlite'."
            )


class FingerprintTest(unittest.IsolatedAsyncioTestCase):
    def test_it_tells_tokens_apart(self) -> None:
        """Eight hexadecimal digits, the same ones every time."""
        assert re.fullmatch(r"[0-9a-f]{16}", fingerprint(TOKEN))
        assert fingerprint(TOKEN) == fingerprint(TOKEN)
        assert fingerprint(TOKEN) != fingerprint(OTHER)

    def test_it_leads_to_no_key(self) -> None:
        """Behaviour 8: it is of another domain than the keys are."""
        assert (
            not Vault(MemoryBackend())._key(TOKEN).hex().startswith(fingerprint(TOKEN))
        )

    def test_it_is_no_plain_digest(self) -> None:
        """Behaviour 8: others may use the SHA-256 of their own tokens as a key."""
        assert (
            not hashlib.sha256(b"theirs").hexdigest().startswith(fingerprint("theirs"))
        )

    async def test_a_token_and_its_key_have_the_same(self) -> None:
        """The fingerprint is the same, whether from the token or from the key."""
        vault = Vault(MemoryBackend(), "shop")
        token = (await vault.insert(Record(b"one", user="ada"))).token
        [(key, _)] = [each async for each in vault.find("ada")]

        assert vault.fingerprint(token) == vault.fingerprint_found(key)
        assert Vault(MemoryBackend()).fingerprint(token) != vault.fingerprint(token)

    def test_a_vault_of_its_own_kind_has_them(self) -> None:
        """Also one that has nothing of ours."""

        class SealedVault(Vault):
            def __init__(self) -> None:
                pass

        assert re.fullmatch(r"[0-9a-f]{16}", SealedVault().fingerprint(TOKEN))
        assert SealedVault().fingerprint("sealed") == fingerprint("sealed")

    @settings(deadline=None)
    @given(st.text())
    def test_anything_has_one(self, token: str) -> None:
        """Behaviour 3: a log must not fail over what a client has sent."""
        assert len(fingerprint(token)) == 16
        assert len(Vault(MemoryBackend()).fingerprint(token)) == 16

    def test_a_malformed_token_has_one(self) -> None:
        """Behaviour 3: lone surrogates as well."""
        for token in MALFORMED.values():
            assert len(Vault(MemoryBackend()).fingerprint(token)) == 16
