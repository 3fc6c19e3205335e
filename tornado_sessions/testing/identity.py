"""Tests over HTTP which session a cookie gives access to."""

from __future__ import annotations

import base64
import secrets

import msgspec

from tornado_sessions.core.codec import encode
from tornado_sessions.core.envelope import FORMAT, Envelope
from tornado_sessions.storage.backend import Record
from tornado_sessions.testing.applications import (
    destroy,
    fail,
    login,
    look,
    put,
    regenerate,
    save,
)
from tornado_sessions.testing.visitors import VisitorTests
from tornado_sessions.web import SessionMixin

#: Ids that no client was given, but an attacker may send.
MALFORMED = (
    "",
    "A" * 42,
    "A" * 44,
    "A" * 42 + "B",
    "../../etc/passwd",
    "$ne",
    "' OR 1=1 --",
    "%00",
    '"quoted"',
    "=",
    "\xe4",
    "A" * 65536,
)

#: Ids that HTTP refuses in a header, so only an error of a caller can pass them.
IMPOSSIBLE = ("\0" * 43, "A" * 42 + "\n", "A" * 43 + "\r\n", "\u20ac", "\ud800")


class IdentityContract(VisitorTests):
    """Tests of session ids and of their records."""

    def test_an_unknown_id_is_never_adopted(self) -> None:
        """Behaviour 1: what is written goes under a fresh id."""
        ada = self.visitor()
        ada.does(put(a=1))
        planted = self.altered(ada.token)
        victim = self.visitor(token=planted)
        victim.does(put(b=2))
        self.assertNotEqual(victim.token, planted)
        self.assertEqual(victim.sees(), {"b": 2})
        self.assertEqual(self.visitor(token=planted).sees(), {})

    def test_all_dead_ids_are_answered_alike(self) -> None:
        """Behaviour 2: unknown, expired, revoked, malformed, undecryptable."""
        expired, revoked = self.visitor(), self.visitor()
        expired.does(put(a=1))
        self.time += self.sessions.rules.idle_timeout + 1
        revoked.does(put(a=1))
        tokens = [expired.token, self.altered(expired.token), "malformed"]
        if self.ends_copies:
            tokens.append(revoked.token)
            revoked.does(destroy)
        for act in (look, put(b=2), destroy):
            answers = set()
            for token in tokens:
                visitor = self.visitor(token=token)
                response = visitor.does(act, lambda handler: handler.write("Hello."))
                headers = str(sorted(response.headers.get_all()))
                headers = headers.replace(visitor.token, "")
                headers = headers.replace(response.headers["Date"], "")
                answers.add((response.code, response.body, headers))
            self.assertEqual(len(answers), 1, answers)

    def test_a_malformed_id_is_no_session_and_no_error(self) -> None:
        """Behaviour 3: whatever the cookie says."""
        for token in MALFORMED:
            with self.subTest(token=token[:50]):
                response = self.visitor(token=token).does(look)
                self.assertEqual(response.code, 200)
                self.assert_cookie_lines(response, 0)
        for token in IMPOSSIBLE:
            session = self.complete(self.sessions.load(token))
            self.assertTrue(session.is_new)

    def test_a_malformed_id_never_reaches_the_backend(self) -> None:
        """Behaviour 3: neither to be read nor to be removed."""
        watched = self.watch_backend()
        for token in MALFORMED:
            self.visitor(token=token).does(look)
            self.visitor(token=token).does(destroy)
        for token in IMPOSSIBLE:
            self.complete(self.sessions.load(token))
            self.complete(self.sessions.vault.delete(token))
        self.assertEqual(watched.keys, [])

    def test_looking_up_an_unknown_id_creates_nothing(self) -> None:
        """Behaviour 4: no record, and no Set-Cookie."""
        ada = self.visitor()
        ada.does(put(a=1))
        vault = self.watch()
        response = self.visitor(token=self.altered(ada.token)).does(look)
        self.assert_cookie_lines(response, 0)
        self.assertEqual(vault.calls, ["load"])

    def test_an_id_is_43_characters_of_base64url(self) -> None:
        """Behaviour 5: 256 bits, without structure."""
        self.require_backend()
        tokens = set()
        for _ in range(20):
            visitor = self.visitor()
            visitor.does(put(a=1))
            self.assertRegex(visitor.token, r"\A[A-Za-z0-9_-]{43}\Z")
            tokens.add(visitor.token)
        self.assertEqual(len(tokens), 20)
        for place in range(42):
            self.assertGreater(len({token[place] for token in tokens}), 5)

    def test_only_a_digest_of_the_id_is_stored(self) -> None:
        """Behaviour 7: neither the keys nor the records hold an id."""
        watched = self.watch_backend()
        ada = self.visitor()
        tokens = set()
        for act in (put(a=1), regenerate, login("ada"), put(b=2)):
            ada.does(act)
            tokens.add(ada.token)
        self.assertEqual(len(tokens), 3)
        dump = b"".join(watched.keys + watched.stored)
        for token in tokens:
            raw = base64.urlsafe_b64decode(token + "=")
            for form in (*_forms(token.encode()), *_forms(raw)):
                self.assertNotIn(form, dump)

    def test_a_digest_as_a_cookie_is_an_unknown_id(self) -> None:
        """Behaviour 7: the content of the store gives no access to a session."""
        watched = self.watch_backend()
        self.visitor().does(put(a=1))
        key = watched.keys[-1]
        for token in (base64.urlsafe_b64encode(key).decode().rstrip("="), key.hex()):
            self.assertEqual(self.visitor(token=token).sees(), {})

    def test_no_log_line_holds_an_id_or_a_value(self) -> None:
        """Behaviour 8: at DEBUG neither, the driver's own lines included."""
        value = secrets.token_hex(16)
        vault = self.watch()
        ada = self.visitor()
        hidden = {value}
        for act in (put(a=value), regenerate, login("ada"), look, save, fail):
            ada.does(act)
            hidden.add(ada.token)
        ada.does(put(b={value}))
        for operation in ("load", "save", "delete"):
            vault.failing = {operation}
            ada.does(put(a=value * 2), regenerate)
        vault.failing.clear()
        broken = self.complete(vault.insert(self.record(b"{" + value.encode()))).token
        hidden.add(broken)
        self.visitor(token=broken).does(look)
        both = f"{ada.cookie}; session={broken}"
        self.visitor().does(put(a=value), headers={"Cookie": both})
        ada.does(destroy)
        log = "\n".join(self.log.lines).encode()
        self.assertGreater(len(self.log.lines), 10)
        for secret in hidden:
            for form in _forms(secret.encode()):
                self.assertNotIn(form, log)

    def test_regenerating_changes_the_id_and_keeps_the_rest(self) -> None:
        """Behaviour 9: values and user stay, in one Set-Cookie."""
        ada = self.visitor()
        ada.does(put(a=1), login("ada"))
        before = ada.token
        self.assert_cookie_lines(ada.does(regenerate), 1)
        self.assertNotEqual(ada.token, before)
        self.assertEqual(ada.sees(), {"a": 1})
        self.assertEqual(ada.asks(lambda handler: handler.session.user), "ada")

    def test_the_old_id_is_dead_after_regenerating(self) -> None:
        """Behaviour 9: before the response leaves."""
        self.require_ending_of_copies()
        for act in (regenerate, login("ada")):
            ada = self.visitor()
            ada.does(put(a=1))
            thief = ada.copy()
            ada.does(act)
            self.assertEqual(thief.sees(), {})
            self.assertEqual(ada.sees(), {"a": 1})

    def test_a_late_request_gives_no_ended_session_another_id(self) -> None:
        """Behaviours 9, 39, 44: whatever makes it ask for one."""
        self.require_ending_of_copies()
        for act in (regenerate, _live_longer):
            ada = self.visitor()
            ada.does(put(a=1))
            late = ada.copy()
            response = late.does(put(a=2), self.meanwhile(ada, destroy), act)
            self.assertEqual(response.code, 200)
            self.assert_cookie_lines(response, 0)
            self.assertEqual(late.sees(), {})

    def test_a_copy_that_lives_longer_ends_with_the_session(self) -> None:
        """Behaviours 44, 50, 77: whichever request has set its timeouts."""
        self.require_ending_of_copies()
        ada = self.visitor()
        ada.does(put(a=1), login("ada"))
        thief = ada.copy()
        thief.does(_live_longer)
        ada.does(destroy)
        self.assertEqual(thief.sees(), {})
        self.time += 2 * self.sessions.rules.idle_timeout
        # With this the store drops what it need not keep any more.
        other = self.visitor()
        other.does(login("ada"))
        other.does(destroy)
        self.assertEqual(thief.sees(), {})

    def test_regenerating_sends_at_most_one_cookie(self) -> None:
        """Behaviour 9: on a new session, twice, and before a destroy()."""
        for known, acts, lines, values in (
            (False, (regenerate,), 0, {}),
            (False, (regenerate, put(a=1)), 1, {"a": 1}),
            (False, (put(a=1), regenerate, destroy), 0, {}),
            (True, (regenerate, regenerate), 1, {"a": 0}),
            (True, (regenerate, destroy), 1, {}),
            (True, (regenerate, destroy, put(a=2)), 1, {"a": 2}),
        ):
            visitor = self.visitor()
            if known:
                visitor.does(put(a=0))
            before = visitor.token
            self.assert_cookie_lines(visitor.does(*acts), lines)
            self.assertEqual(visitor.sees(), values)
            if known:
                self.assertNotEqual(visitor.token, before)

    def test_regenerating_stores_the_new_record_first(self) -> None:
        """Behaviour 10: a crash in between loses nothing."""
        self.require_ending_of_copies()
        ada = self.visitor()
        ada.does(put(a=1))
        vault = self.watch()
        ada.does(regenerate)
        end = "save" if self.sessions.rules.revocable else "delete"
        self.assertEqual(vault.calls[-3:], ["load", "save", end])

    def test_an_old_record_that_stays_fails_the_request(self) -> None:
        """Behaviour 10: 503, and the new id is never sent."""
        self.require_ending_of_copies()
        ada = self.visitor()
        ada.does(put(a=1))
        vault = self.watch()
        vault.failing = {"replace" if self.sessions.rules.revocable else "delete"}
        response = ada.does(regenerate, put(a=2))
        self.assertEqual(response.code, 503)
        self.assert_cookie_lines(response, 0)
        vault.failing.clear()
        self.assertEqual(ada.sees(), {"a": 1})

    # What is stored.

    def test_a_record_that_cannot_be_decoded_is_no_session(self) -> None:
        """Behaviours 32, 84: it is logged once, and not overwritten."""
        vault = self.sessions.vault
        unreadable = (b"", b"garbage", b"[]", b"{}", b"\xff" * 50, b'{"format":1}')
        refused = _refused(self.time)
        for data in (*unreadable, *refused):
            with self.subTest(data=data):
                token = self.complete(vault.insert(self.record(data))).token
                visitor = self.visitor(token=token)
                self.assertEqual(visitor.sees(), {})
                visitor.does(put(a=1))
                self.assertNotEqual(visitor.token, token)
                self.assertEqual(visitor.sees(), {"a": 1})
                stored = self.complete(vault.load(token))
                self.assertIsNotNone(stored)
                self.assertEqual(stored and stored.data, data)
        lines = self.log.find("cannot be decoded")
        self.assertEqual(len(lines), len(unreadable) + len(refused))
        self.assertRegex(lines[0], r"WARNING tornado_sessions .*session [0-9a-f]{16} ")

    def test_a_record_of_a_newer_format_is_left_alone(self) -> None:
        """Behaviour 32: the request gets a 503, and the record stays."""
        vault = self.sessions.vault
        data = b'{"format":99,"values":{"of":"tomorrow"}}'
        token = self.complete(vault.insert(self.record(data))).token
        visitor = self.visitor(token=token)
        for act in (look, put(a=1), destroy):
            response = visitor.does(act)
            self.assertEqual(response.code, 503)
            self.assert_cookie_lines(response, 0)
        stored = self.complete(vault.load(token))
        self.assertEqual(stored and stored.data, data)

    def test_a_record_answers_for_its_own_key(self) -> None:
        """Behaviours 33, 84: one that was copied under another key is refused."""
        watched = self.watch_backend()
        ada, eve = self.visitor(), self.visitor()
        ada.does(login("ada"))
        ada_key = watched.keys[-1]
        eve.does(put(a=1))
        eve_key = watched.keys[-1]

        async def copy() -> None:
            source = await watched.load(ada_key)
            target = await watched.load(eve_key)
            assert source is not None
            assert target is not None
            await watched.replace(
                eve_key, Record(source.data, expires=self.time + 3600), target.version
            )

        self.complete(copy())
        self.assertIsNone(eve.asks(lambda handler: handler.session.user))
        self.assertEqual(eve.sees(), {})
        self.assertEqual(ada.asks(lambda handler: handler.session.user), "ada")
        self.assertEqual(len(self.log.find("was not stored for it")), 1)

    def record(self, data: bytes) -> Record:
        """Returns a record that this library has not stored, and that is not expired."""
        return Record(data, expires=self.time + 3600)


def _refused(now: float) -> list[bytes]:
    """Returns records whose values are JSON that cannot be used in Python."""
    envelope = Envelope(now, now, now + 3600, {}, format=FORMAT)
    return [
        encode(msgspec.structs.replace(envelope, values={"a": msgspec.Raw(value)}))
        for value in (b"1e999", b"9" * 310 + b".5", b"[" * 900 + b"]" * 900)
    ]


def _forms(secret: bytes) -> list[bytes]:
    """Returns the encodings in which ``secret`` may appear in a text."""
    forms = [secret, secret.hex().encode(), secret.hex().upper().encode()]
    for encoded_by in (base64.b64encode, base64.urlsafe_b64encode):
        for offset in range(3):
            # Only what does not depend on what stands around it.
            encoded = encoded_by(b"\0" * offset + secret)
            forms.append(encoded[(0, 2, 3)[offset] : -4])
    return forms


def _live_longer(handler: SessionMixin) -> None:
    handler.session.set_expiry(idle=30 * 86_400, lifetime=90 * 86_400)
