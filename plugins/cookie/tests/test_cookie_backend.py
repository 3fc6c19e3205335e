"""Tests of the sealed cookie: what it keeps, what it refuses, what it admits."""

from __future__ import annotations

import base64
import contextlib
import logging
import string
import unittest
from typing import Any

import tornado.web
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tornado_sessions_cookie import CookieBackend
from tornado_sessions_cookie.xaes import XAES256GCM

from tornado_sessions import (
    Record,
    SessionDataError,
    Sessions,
)
from tornado_sessions.core.values import state_of
from tornado_sessions.settings import Settings
from tornado_sessions.storage.outdated import OutdatedRecord

SECRET = "first secret, 32 bytes or longer"
OTHER_SECRET = "other secret, 32 bytes or longer"
URL_ALPHABET = string.ascii_letters + string.digits + "-_"


def decoded(token: str) -> bytes:
    return base64.urlsafe_b64decode(token)


def encoded(sealed: bytes) -> str:
    return base64.urlsafe_b64encode(sealed).decode()


def sealed_by_hand(
    data: bytes,
    *,
    size: int = 288,
    key_purpose: bytes = b"tornado_sessions cookie v1",
    bound_purpose: bytes = b"tornado_sessions cookie v1",
) -> str:
    """Answers a token for the cookie "session", made as the documents say."""
    header, nonce = b"\x01" + bytes(4), b"a nonce of twenty-four b"
    key = HKDF(SHA256(), 32, salt=None, info=key_purpose).derive(SECRET.encode())
    bound = b"".join(
        len(part).to_bytes(4, "big") + part
        for part in (header, bound_purpose, b"session", b"")
    )
    padded = (data + b"\x80").ljust(size, b"\0")
    return encoded(header + nonce + XAES256GCM(key).encrypt(nonce, padded, bound))


class CookieBackendTest(unittest.IsolatedAsyncioTestCase):
    def setUp(self) -> None:
        self.backend = CookieBackend({0: SECRET}, 0)

    async def assert_refused(self, token: str) -> None:
        self.assertIsNone(await self.backend.load(token))

    async def test_data_of_every_size_comes_back(self) -> None:
        """What was saved is what is loaded, zeros and padding bytes included."""
        for size in range(2900):
            for byte in (b"\0", b"\x80", b"x"):
                data = byte * size
                token = (await self.backend.insert(Record(data))).token
                record = await self.backend.load(token)

                self.assertIsNotNone(record)
                assert record is not None
                self.assertEqual(record.data, data)

    async def test_a_loaded_record_is_not_new_and_needs_no_renewal(self) -> None:
        """A version of None would call the record one that is to be created."""
        record = await self.backend.load(
            (await self.backend.insert(Record(b"x"))).token
        )

        assert record is not None
        self.assertIsNotNone(record.version)
        self.assertNotIsInstance(record, OutdatedRecord)

    async def test_a_loaded_record_can_be_saved_again_any_number_of_times(self) -> None:
        """There is no conflict to detect: nothing is kept that could differ."""
        token = (await self.backend.insert(Record(b"x"))).token
        record = await self.backend.load(token)
        assert record is not None

        for data in (b"y", b"z"):
            newer = await self.backend.replace(token, Record(data), record.version)
            loaded = await self.backend.load(newer.token)
            assert loaded is not None
            self.assertEqual(loaded.data, data)

    async def test_every_save_makes_another_token(self) -> None:
        """Behaviour 61: the nonce is new each time, for the same record too."""
        tokens = {(await self.backend.insert(Record(b"x"))).token for _ in range(1000)}

        self.assertEqual(len(tokens), 1000)
        self.assertEqual(len({decoded(token)[5:29] for token in tokens}), 1000)

    async def test_a_token_is_made_of_url_characters_alone(self) -> None:
        """Nothing in a token has to be quoted in a cookie, a URL or a header."""
        for size in range(300, 600):
            token = (await self.backend.insert(Record(b"x" * size))).token

            self.assertLessEqual(set(token), set(URL_ALPHABET))

    async def test_the_data_does_not_show_in_the_token(self) -> None:
        """The client cannot read what its session holds."""
        data = b'{"user":"alice","cart":{"apple":1}}'
        sealed = decoded((await self.backend.insert(Record(data))).token)

        for start in range(len(data) - 4):
            self.assertNotIn(data[start : start + 4], sealed)

    async def test_deleting_purging_and_closing_do_nothing(self) -> None:
        """The server keeps nothing: a token stays good until it expires."""
        token = (await self.backend.insert(Record(b"x"))).token
        await self.backend.delete(token)
        await self.backend.delete("never seen")
        purged = await self.backend.purge(1e12)
        await self.backend.close()
        await self.backend.close()

        self.assertEqual(purged, 0)
        self.assertIsNotNone(await self.backend.load(token))

    async def test_what_it_cannot_do_is_declared(self) -> None:
        """The core and the contracts go by what a backend says of itself."""
        self.assertFalse(self.backend.revocable)

    # What is refused.

    async def test_any_flipped_bit_makes_a_token_worthless(self) -> None:
        """Behaviour 59: no session, nothing raised."""
        sealed = decoded((await self.backend.insert(Record(b'{"user":"alice"}'))).token)

        for position in range(len(sealed) * 8):
            changed = bytearray(sealed)
            changed[position // 8] ^= 1 << position % 8
            await self.assert_refused(encoded(bytes(changed)))

    async def test_any_changed_character_makes_a_token_worthless(self) -> None:
        """Behaviours 2, 59: every other spelling of a token is another token."""
        token = (await self.backend.insert(Record(b'{"user":"alice"}'))).token

        for position, right in enumerate(token):
            for wrong in {*URL_ALPHABET, *"+/= .~\0\n;\xe9"} - {right}:
                changed = token[:position] + wrong + token[position + 1 :]
                await self.assert_refused(changed)

    async def test_any_cut_makes_a_token_worthless(self) -> None:
        """Behaviour 59: at either end, of characters and of bytes."""
        token = (await self.backend.insert(Record(b"x" * 400))).token
        sealed = decoded(token)

        for length in range(len(token)):
            await self.assert_refused(token[:length])
            await self.assert_refused(token[length + 1 :])
        for length in range(0, len(sealed), 3):
            await self.assert_refused(encoded(sealed[:length]))

    async def test_anything_added_makes_a_token_worthless(self) -> None:
        """Behaviours 2, 59: what a decoder would skip is not skipped."""
        token = (await self.backend.insert(Record(b"x"))).token

        for extra in ("A", "AA", "AAA", "AAAA", "=", "====", " ", "\n", "\0", "!!!!"):
            await self.assert_refused(token + extra)
            await self.assert_refused(extra + token)
            await self.assert_refused(token[:100] + extra + token[100:])

    async def test_the_other_base64_alphabet_is_refused(self) -> None:
        """Behaviours 2, 59: a record has one spelling."""
        token = "A"
        while not {"-", "_"} <= set(token):
            token = (await self.backend.insert(Record(b"x" * 400))).token

        await self.assert_refused(token.replace("-", "+"))
        await self.assert_refused(token.replace("_", "/"))

    async def test_halves_of_two_tokens_make_no_third(self) -> None:
        """Behaviour 59: parts of good tokens cannot be put together."""
        one = (await self.backend.insert(Record(b"x" * 280))).token
        two = (await self.backend.insert(Record(b"y" * 280))).token

        for position in range(1, len(one)):
            if one[:position] != two[:position] and one[position:] != two[position:]:
                await self.assert_refused(one[:position] + two[position:])

    async def test_another_cookie_name_or_namespace_has_other_tokens(self) -> None:
        """Behaviour 59: the cookie's name and the namespace are bound."""
        contexts: list[dict[str, Any]] = [
            {"name": "session", "namespace": ""},
            {"name": "other", "namespace": ""},
            {"name": "session", "namespace": "shop"},
            # The same characters, cut elsewhere.
            {"name": "sessio", "namespace": "n"},
            {"name": "sessionshop", "namespace": ""},
            {"name": "", "namespace": "session"},
        ]
        backends = [CookieBackend({0: SECRET}, 0, **context) for context in contexts]
        for sealing in backends:
            token = (await sealing.insert(Record(b"x"))).token
            opened = [await opening.load(token) is not None for opening in backends]

            self.assertEqual(opened, [opening is sealing for opening in backends])

    async def test_a_token_made_as_documented_is_a_session(self) -> None:
        """Behaviours 59, 61: what one release seals, the next one opens."""
        record = await self.backend.load(sealed_by_hand(b"x"))

        assert record is not None
        self.assertEqual(record.data, b"x")

    async def test_what_is_sealed_for_another_purpose_is_no_session(self) -> None:
        """Behaviour 59: the purpose is in the key, and in what is bound."""
        await self.assert_refused(sealed_by_hand(b"x", key_purpose=b"other"))
        await self.assert_refused(sealed_by_hand(b"x", bound_purpose=b"other"))

    async def test_what_no_cookie_can_hold_is_not_even_decoded(self) -> None:
        """Behaviour 2: a good seal does not help a token that is too long."""
        longest, longer = 2976, 2976 + 96
        record = await self.backend.load(sealed_by_hand(b"x", size=longest))

        self.assertIsNotNone(record)
        await self.assert_refused(sealed_by_hand(b"x", size=longer))

    async def test_a_cookie_signed_by_tornado_is_no_session(self) -> None:
        """Behaviour 59: the one secret makes two kinds of cookie, never mixed."""
        value = b"x" * 400
        for version in (1, 2):
            signed = tornado.web.create_signed_value(
                SECRET, "session", value, version=version
            )
            await self.assert_refused(signed.decode())
            await self.assert_refused(encoded(signed + b"x" * (-len(signed) % 3)))

    async def test_a_session_is_no_cookie_signed_by_tornado(self) -> None:
        """Behaviour 59: nor does Tornado take a sealed record for its own."""
        token = (await self.backend.insert(Record(b"x"))).token

        value = tornado.web.decode_signed_value(SECRET, "session", token)
        self.assertIsNone(value)

    async def test_an_unknown_format_is_no_session(self) -> None:
        """Behaviours 2, 59: whatever its first byte says."""
        sealed = decoded((await self.backend.insert(Record(b"x"))).token)

        for first in set(range(256)) - {sealed[0]}:
            await self.assert_refused(encoded(bytes([first]) + sealed[1:]))

    async def test_hostile_tokens_are_no_session(self) -> None:
        """Behaviour 2: nothing that a client can send raises."""
        for token in (
            "",
            "\0",
            "\r\n",
            "../" * 200,
            "$ne",
            "' OR 1=1",
            "A" * 43,
            "A" * 444,
            "\xe9" * 444,
            "\ud800" * 444,
            "\U0001f36a" * 444,
            "=" * 444,
            "A" * 65536,
            "\ud800" * 65536,
        ):
            with self.subTest(token=token[:20], length=len(token)):
                await self.assert_refused(token)

    async def test_arbitrary_text_never_raises(self) -> None:
        """Behaviour 2: not even text that has a good token's length and start."""
        good = (await self.backend.insert(Record(b"x"))).token

        @settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
        @given(
            st.text(max_size=len(good))
            | st.text(URL_ALPHABET, min_size=len(good), max_size=len(good))
        )
        @example("")
        def check(text: str) -> None:
            for token in (text, good[: -len(text)] + text if text else text):
                if token != good:
                    load = self.backend.load(token)
                    with self.assertRaises(StopIteration) as stopped:
                        load.send(None)
                    self.assertIsNone(stopped.exception.value)

        check()

    # How much it holds.

    async def test_an_empty_and_a_small_session_are_of_one_length(self) -> None:
        """Behaviour 61: padded, so that the length tells little."""
        fields = b'{"created":1700000000.123456,"user":"alice","values":%b}'
        empty = (await self.backend.insert(Record(fields % b"{}"))).token
        small = (await self.backend.insert(Record(fields % b'{"a":1}'))).token

        self.assertEqual(len(empty), len(small))

    async def test_lengths_come_in_steps(self) -> None:
        """Behaviour 61: 288 bytes, then 96 at a time; 128 characters a step."""
        lengths = [
            len((await self.backend.insert(Record(b"x" * size))).token)
            for size in (0, 287, 288, 383, 384)
        ]

        self.assertEqual(lengths, [444, 444, 572, 572, 700])

    async def test_what_repeats_is_not_compressed(self) -> None:
        """Behaviour 61: a length that depends on the content would leak it."""
        same = (await self.backend.insert(Record(b"x" * 2000))).token
        mixed = (await self.backend.insert(Record(bytes(range(250)) * 8))).token

        self.assertEqual(len(same), len(mixed))

    async def test_exactly_4096_bytes_of_name_and_value_are_taken(self) -> None:
        """Behaviour 62: counted with the longest prefix that the name gets."""
        data = b"x" * 2975
        name = "n" * (4096 - 4028 - len("__Host-Http-"))
        backend = CookieBackend({0: SECRET}, 0, name=name)
        token = (await backend.insert(Record(data))).token
        record = await backend.load(token)

        self.assertEqual(len("__Host-Http-" + name) + len(token), 4096)
        assert record is not None
        self.assertEqual(record.data, data)

    async def test_one_byte_more_is_refused_with_the_count(self) -> None:
        """Behaviour 62: of the name as of the data."""
        name = "n" * (4096 - 4028 - len("__Host-Http-"))
        longer_name = CookieBackend({0: SECRET}, 0, name=name + "n")
        with self.assertRaises(SessionDataError) as refused:
            await longer_name.insert(Record(b"x" * 2975))

        self.assertEqual(
            str(refused.exception),
            "The session takes 4097 bytes; a cookie holds at most 4096. Store less,"
            " or use a server-side backend.",
        )
        longer_data = CookieBackend({0: SECRET}, 0, name=name)
        with self.assertRaisesRegex(SessionDataError, "takes 4224 bytes"):
            await longer_data.insert(Record(b"x" * 2976))

    async def test_a_name_that_is_taken_literally_gets_no_prefix(self) -> None:
        """Behaviour 62: a name that begins with two underscores is sent as it is."""
        name = "__Host-" + "n" * (4096 - 4028 - len("__Host-"))
        backend = CookieBackend({0: SECRET}, 0, name=name)
        token = (await backend.insert(Record(b"x" * 2975))).token

        self.assertEqual(len(name) + len(token), 4096)
        with self.assertRaisesRegex(SessionDataError, "takes 4097 bytes"):
            await CookieBackend({0: SECRET}, 0, name=name + "n").insert(
                Record(b"x" * 2975)
            )

    async def test_a_megabyte_is_refused(self) -> None:
        """Behaviour 62: before any of it is encrypted."""
        with self.assertRaisesRegex(SessionDataError, "a cookie holds at most 4096"):
            await self.backend.insert(Record(b"x" * 2**20))

    # What it says.

    async def test_nothing_secret_is_in_logs_and_errors(self) -> None:
        """Behaviour 8: no log line at all, at DEBUG, and a bare count in repr."""
        data = b"a value that is nobody's business"
        with self.assertNoLogs(level=logging.DEBUG):
            token = (await self.backend.insert(Record(data))).token
            await self.backend.load(token)
            await self.backend.load(token[:-1])
            await self.backend.delete(token)
            with contextlib.suppress(SessionDataError):
                await self.backend.insert(Record(data * 200))
        self.assertEqual(repr(self.backend), "<CookieBackend 1 keys>")


class KeysTest(unittest.IsolatedAsyncioTestCase):
    async def test_a_new_key_seals_and_the_old_one_opens(self) -> None:
        """Behaviour 60: what an old key opened is to be sealed anew."""
        before = CookieBackend({1: SECRET}, 1)
        after = CookieBackend({1: SECRET, 2: OTHER_SECRET}, 2)
        old = (await before.insert(Record(b"x"))).token
        record = await after.load(old)
        assert record is not None
        new = (await after.replace(old, record, record.version)).token
        renewed = await after.load(new)
        assert renewed is not None

        self.assertEqual((record.data, type(record)), (b"x", OutdatedRecord))
        self.assertEqual((renewed.data, type(renewed)), (b"x", Record))
        self.assertIsNone(await before.load(new))

    async def test_a_removed_key_is_dead(self) -> None:
        """Behaviour 60: what it sealed is no session, and nothing is raised."""
        token = (await CookieBackend({1: SECRET}, 1).insert(Record(b"x"))).token

        self.assertIsNone(await CookieBackend({2: OTHER_SECRET}, 2).load(token))

    async def test_a_replaced_key_is_dead(self) -> None:
        """Behaviour 60: the version in a token is no proof of its key."""
        token = (await CookieBackend({1: SECRET}, 1).insert(Record(b"x"))).token

        self.assertIsNone(await CookieBackend({1: OTHER_SECRET}, 1).load(token))

    async def test_a_token_cannot_be_moved_to_another_version(self) -> None:
        """Behaviour 59: the version is bound, even where the secrets are one."""
        backend = CookieBackend({1: SECRET, 2: SECRET}, 1)
        sealed = decoded((await backend.insert(Record(b"x"))).token)
        moved = sealed[:1] + (2).to_bytes(4, "big") + sealed[5:]

        self.assertIsNone(await backend.load(encoded(moved)))

    async def test_the_smallest_and_the_largest_version_work(self) -> None:
        """Behaviour 60: versions from 0 to 4294967295."""
        for version in (0, 2**32 - 1):
            backend = CookieBackend({version: SECRET}, version)
            token = (await backend.insert(Record(b"x"))).token

            self.assertIsNotNone(await backend.load(token))

    def test_a_short_secret_is_refused(self) -> None:
        """Behaviours 8, 60: the error says how long it is and how to make one."""
        with self.assertRaises(ValueError) as refused:
            CookieBackend({0: "x" * 31}, 0)

        self.assertEqual(
            str(refused.exception),
            "The cookie_secret of version 0 has 31 bytes; the cookie session backend"
            " needs at least 32. Make one with:"
            ' python -c "import secrets; print(secrets.token_urlsafe(32))"',
        )
        CookieBackend({0: "x" * 32}, 0)

    def test_a_secret_is_measured_in_bytes(self) -> None:
        """Behaviour 60: as str in UTF-8 and as bytes alike."""
        CookieBackend({0: "\xe9" * 16}, 0)
        CookieBackend({0: b"x" * 32}, 0)
        with self.assertRaisesRegex(ValueError, "has 31 bytes"):
            CookieBackend({0: b"x" * 31}, 0)

    def test_every_secret_has_to_be_long_enough(self) -> None:
        """Behaviour 60: those that only open as well."""
        with self.assertRaisesRegex(ValueError, "of version 1 has 5 bytes"):
            CookieBackend({1: "short", 2: SECRET}, 2)

    def test_a_secret_that_is_no_text_is_refused(self) -> None:
        """Behaviours 8, 60: by its type, without repeating it."""
        number: Any = 12345
        with self.assertRaisesRegex(
            ValueError, "version 0 is of the type int. Use a str or bytes."
        ):
            CookieBackend({0: number}, 0)

    def test_a_key_version_that_has_no_secret_is_refused(self) -> None:
        """Behaviour 60: the error names the versions there are."""
        with self.assertRaises(ValueError) as refused:
            CookieBackend({1: SECRET, 2: OTHER_SECRET}, 3)

        self.assertEqual(
            str(refused.exception),
            "The 'key_version' setting is 3; it must name one of the versions of"
            " cookie_secret: 1, 2.",
        )
        with self.assertRaisesRegex(ValueError, "of cookie_secret: none."):
            CookieBackend({}, 0)

    def test_a_key_version_that_is_no_number_is_not_repeated(self) -> None:
        """Behaviour 89: it may be the secret itself."""
        secret: Any = SECRET
        with self.assertRaisesRegex(ValueError, "setting is a str; it") as refused:
            CookieBackend({1: SECRET}, secret)

        self.assertNotIn(SECRET, str(refused.exception))

    def test_a_version_out_of_range_is_refused(self) -> None:
        """Behaviour 60: four bytes of a token say which key it is."""
        for version in (-1, 2**32):
            with self.assertRaisesRegex(ValueError, f"cookie_secret is {version}\\."):
                CookieBackend({version: SECRET}, version)

    def test_a_dict_the_wrong_way_round_is_not_repeated(self) -> None:
        """Behaviour 8: what stands for a version may be the secret itself."""
        wrong_way_round: Any = {SECRET: 1}
        with self.assertRaisesRegex(ValueError, "cookie_secret is a str\\.") as refused:
            CookieBackend(wrong_way_round, 1)

        self.assertNotIn(SECRET, str(refused.exception))


class FromUrlTest(unittest.IsolatedAsyncioTestCase):
    async def test_the_settings_are_tornados_own(self) -> None:
        """Behaviour 60: ``cookie_secret`` alone is enough."""
        for url in ("cookie", "cookie:"):
            for secret in (SECRET, SECRET.encode()):
                backend = CookieBackend.from_url(url, {"cookie_secret": secret})
                token = (await backend.insert(Record(b"x"))).token

                self.assertIsNotNone(await CookieBackend({0: SECRET}, 0).load(token))

    async def test_a_single_secret_becomes_version_0_of_a_dict(self) -> None:
        """Behaviour 60: as for Tornado's signed cookies; a ``key_version`` that
        stands beside a single secret means nothing."""
        single = CookieBackend.from_url(
            "cookie:", {"cookie_secret": SECRET, "key_version": 7}
        )
        rotated = CookieBackend.from_url(
            "cookie:",
            {"cookie_secret": {0: SECRET, 1: OTHER_SECRET}, "key_version": 1},
        )
        record = await rotated.load((await single.insert(Record(b"x"))).token)

        assert record is not None
        self.assertIsInstance(record, OutdatedRecord)

    async def test_the_cookie_name_and_the_namespace_are_taken_over(self) -> None:
        """Behaviour 59: what they bind comes from the application's settings."""
        backend = CookieBackend.from_url(
            "cookie:",
            {
                "cookie_secret": SECRET,
                "session_cookie_name": "sid",
                "session_namespace": "shop",
            },
        )
        token = (await backend.insert(Record(b"x"))).token
        same = CookieBackend({0: SECRET}, 0, name="sid", namespace="shop")

        self.assertIsNotNone(await same.load(token))
        self.assertIsNone(await CookieBackend({0: SECRET}, 0).load(token))

    def test_a_missing_secret_is_an_error(self) -> None:
        """Behaviour 60: in the words that Tornado has for it."""
        for missing in ({}, {"cookie_secret": None}):
            with self.assertRaises(ValueError) as refused:
                CookieBackend.from_url("cookie:", missing)

            self.assertEqual(
                str(refused.exception),
                "You must define the 'cookie_secret' setting in your application to"
                " use the cookie session backend. Make one with:"
                ' python -c "import secrets; print(secrets.token_urlsafe(32))"',
            )

    def test_an_empty_secret_is_an_error(self) -> None:
        """Behaviour 60: as one that is too short."""
        with self.assertRaisesRegex(ValueError, "has 0 bytes"):
            CookieBackend.from_url("cookie:", {"cookie_secret": ""})

    def test_a_dict_without_a_key_version_is_an_error(self) -> None:
        """Behaviour 60: the error names the versions there are."""
        with self.assertRaisesRegex(
            ValueError, "'key_version' setting is None; .* cookie_secret: 1, 2."
        ):
            CookieBackend.from_url(
                "cookie:", {"cookie_secret": {1: SECRET, 2: OTHER_SECRET}}
            )

    def test_an_unknown_option_is_an_error(self) -> None:
        """Behaviour 89: the error repeats neither its name nor its value."""
        for url in ("cookie:?timeout=2&size=hush", "cookie?timeout=&size=hush"):
            with self.assertRaises(ValueError) as refused:
                CookieBackend.from_url(url, {"cookie_secret": SECRET})

            self.assertEqual(
                str(refused.exception),
                "The URL has an option that the cookie session backend does not have."
                " Its only one is 'not_before', a URL, in which '&' is written as"
                " '%26'.",
            )

    def test_an_option_that_is_there_twice_is_an_error(self) -> None:
        """It shows neither of them: a URL may have a password in it."""
        url = "cookie:?not_before=memory:&not_before=mongodb://user:hush@host"
        with self.assertRaises(ValueError) as refused:
            CookieBackend.from_url(url, {"cookie_secret": SECRET})

        self.assertEqual(
            str(refused.exception),
            "The option 'not_before' of the session backend 'cookie' is there twice."
            " Remove one.",
        )

    def test_a_secret_in_the_url_is_an_error_that_does_not_repeat_it(self) -> None:
        """Behaviour 8: a secret has no place there, nor in a log."""
        for rest in (SECRET, "//user:hush@host/", "#hush"):
            with self.assertRaises(ValueError) as refused:
                CookieBackend.from_url(f"cookie:{rest}", {"cookie_secret": SECRET})

            self.assertEqual(
                str(refused.exception),
                "The cookie session backend takes nothing after its name but the"
                " option 'not_before'. Use session_backend='cookie:'.",
            )


class OlderTest(unittest.IsolatedAsyncioTestCase):
    async def test_an_older_cookie_is_the_session_as_it_was(self) -> None:
        """README, "What must not be kept in it": a balance could be put back."""
        sessions = Sessions(Settings(CookieBackend({0: SECRET}, 0)))
        session = await sessions.load(None)
        session["credits"] = 10
        await session.save()
        older = state_of(session).token

        spent = await sessions.load(older)
        spent["credits"] = 0
        await spent.save()

        self.assertEqual(dict(await sessions.load(older)), {"credits": 10})
        await sessions.close()


if __name__ == "__main__":
    unittest.main()
