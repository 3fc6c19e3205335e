"""Tests of the cookie: read to the byte, written whole, refused in good time."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tornado_sessions.http.cookies import MAX_AGE_LIMIT, CookieSettings

TOKEN = "A" * 43


def cookie(name: str = "session", /, **kwargs: Any) -> CookieSettings:
    return CookieSettings(name, kwargs)


def reference(name: str, lines: list[str]) -> list[str]:
    """Reads cookies as behaviour 55 says, word by word."""
    values = []
    for line in lines:
        for pair in line.split(";"):
            before, equals, after = pair.strip(" \t").partition("=")
            if equals and before == name and after not in values:
                values.append(after)
    return values


class ReadTest:
    """The cookie is named ``__Host-Http-session`` here."""

    @pytest.mark.parametrize(
        ("line", "values"),
        [
            pytest.param("{}=x", ["x"], id="alone"),
            pytest.param("a=b; {}=x; c=d", ["x"], id="among others"),
            pytest.param("a=b;{}=x;c=d", ["x"], id="without spaces"),
            pytest.param("a=b;\t {}=x\t ", ["x"], id="space and tab are trimmed"),
            pytest.param("{}=a=b==", ["a=b=="], id="split at the first ="),
            pytest.param("{}= x", [" x"], id="a space after the = is of the value"),
            pytest.param('{}="x"', ['"x"'], id="not unquoted"),
            pytest.param('{}="x;y"', ['"x'], id="a quoted semicolon splits"),
            pytest.param("{}=%41", ["%41"], id="not decoded"),
            pytest.param("{}=\\101", ["\\101"], id="no octal escapes"),
            pytest.param("{}=", [""], id="empty"),
            pytest.param("{}=x\xa0", ["x\xa0"], id="\\xa0 is part of a value"),
            pytest.param("{}=x; {}=y", ["x", "y"], id="two values"),
            pytest.param("{}=x; {}=x", ["x"], id="one value twice"),
            pytest.param("{}=x; {}=y; {}=x", ["x", "y"], id="two values, three times"),
            pytest.param("", [], id="nothing"),
            pytest.param(";;; ;", [], id="nothing but semicolons"),
            pytest.param("{}", [], id="a name without ="),
            pytest.param("a={}=x", [], id="inside of a value"),
            pytest.param("a=b, {}=x", [], id="a comma does not split"),
            pytest.param("a=b {}=x", [], id="a space does not split"),
            pytest.param("\xa0{}=x", [], id="\\xa0 before the name"),
            pytest.param("a=b;\xa0{}=x", [], id="\\xa0 after a semicolon"),
            pytest.param("\x85{}=x", [], id="\\x85 before the name"),
            pytest.param("\x1c{}=x", [], id="\\x1c before the name"),
            pytest.param("\u3000{}=x", [], id="\\u3000 before the name"),
            pytest.param("\x0b{}=x", [], id="\\x0b before the name"),
            pytest.param("\x0c{}=x", [], id="\\x0c before the name"),
            pytest.param("\r{}=x", [], id="\\r before the name"),
            pytest.param("a=b\n{}=x", [], id="a line feed does not split"),
            pytest.param("{}\xa0=x", [], id="\\xa0 after the name"),
            pytest.param("{} =x", [], id="space after the name"),
            pytest.param("={}=x", [], id="= before the name"),
            pytest.param("{}={}=x", ["__Host-Http-session=x"], id="in its own value"),
            pytest.param("x{}={}=x; {}=y", ["y"], id="in the value of another"),
            pytest.param('"{}"=x', [], id="a quoted name"),
            pytest.param("$Version=1; ${}=x", [], id="$ before the name"),
            pytest.param("x{}=x", [], id="a longer name"),
            pytest.param("{}x=x", [], id="a longer name behind"),
            pytest.param("__host-http-session=x", [], id="lower case"),
            pytest.param("__HOST-HTTP-SESSION=x", [], id="upper case"),
            pytest.param("session=x", [], id="without the prefix"),
            pytest.param("__Host-session=x", [], id="with another prefix"),
        ],
    )
    def test_a_name_is_ours_to_the_byte(self, line: str, values: list[str]) -> None:
        """Behaviour 55: no sibling domain plants a cookie that looks like ours."""
        ours = cookie()
        line = line.replace("{}", "__Host-Http-session")

        assert ours.name == "__Host-Http-session"
        assert ours.read([line]) == values
        assert reference(ours.name, [line]) == values

    def test_all_header_lines_count(self) -> None:
        """Behaviours 35, 55: HTTP/2 may split them."""
        lines = ["session=x; a=b", "a=b", "session=y; session=x"]

        assert cookie(secure=False).read(lines) == ["x", "y"]
        assert cookie(secure=False).read([]) == []

    def test_a_name_is_no_pattern(self) -> None:
        """Behaviour 55: what a name may consist of is taken literally."""
        ours = cookie("a.b+c*|^$", secure=False)

        assert ours.read(["aXb+c*|^$=x", "a.b+c*|^$=y", "=z"]) == ["y"]

    @settings(deadline=None)
    @given(
        st.lists(
            st.lists(
                st.sampled_from(
                    ["s", "S", "=", ";", " ", "\t", '"', "\xa0", "\x85", "\n", "x", ","]
                ),
                max_size=30,
            ).map("".join),
            max_size=3,
        )
    )
    def test_it_reads_what_the_statement_says(self, lines: list[str]) -> None:
        """Behaviour 55: in agreement with a parser written word by word."""
        assert cookie("s", secure=False).read(lines) == reference("s", lines)

    @settings(deadline=None)
    @given(st.text())
    def test_any_text_is_read(self, line: str) -> None:
        """Behaviour 55: nothing raises."""
        assert cookie("s", secure=False).read([line]) == reference("s", [line])

    @pytest.mark.parametrize(
        "piece",
        [";", "; ", " ", "\t", "=", "session", "session=;", ";session", "; session =x"],
    )
    def test_a_long_header_is_read(self, piece: str) -> None:
        """Behaviour 55: 64 KiB of anything that might look promising."""
        line = piece * (65_536 // len(piece))

        assert cookie(secure=False).read([line]) == reference("session", [line])


class LineTest:
    def test_it_carries_every_attribute(self) -> None:
        """Behaviour 54: what is on by default."""
        assert cookie().line(TOKEN) == (
            f"__Host-Http-session={TOKEN}; Path=/; Secure; HttpOnly; SameSite=Lax"
        )

    def test_it_ends_with_the_browser(self) -> None:
        """Behaviour 51: it carries neither Max-Age nor Expires."""
        line = cookie().line(TOKEN)

        assert "Max-Age" not in line
        assert "Expires" not in line

    @pytest.mark.parametrize(
        ("seconds", "sent"),
        [
            (1, 1),
            (3600, 3600),
            (400 * 86_400, 34_560_000),
            (400 * 86_400 + 1, 34_560_000),
            (10**12, 34_560_000),
        ],
    )
    def test_a_lasting_one_is_capped_at_400_days(self, seconds: int, sent: int) -> None:
        """Behaviour 51: that is the browsers' own limit."""
        assert MAX_AGE_LIMIT == 34_560_000
        assert cookie().line(TOKEN, seconds) == (
            f"__Host-Http-session={TOKEN}; Max-Age={sent}; Path=/; Secure; HttpOnly;"
            " SameSite=Lax"
        )

    @pytest.mark.parametrize(
        "kwargs",
        [
            {},
            {"domain": "example.com"},
            {"path": "/shop"},
            {"httponly": False},
            {"secure": False},
            {"samesite": "Strict"},
            {"samesite": "None"},
            {"samesite": None},
            {"partitioned": True, "samesite": "None"},
            {"domain": "example.com", "path": "/shop", "secure": False},
        ],
        ids=repr,
    )
    def test_the_expired_one_carries_the_same_attributes(
        self, kwargs: dict[str, Any]
    ) -> None:
        """Behaviour 42: else the browser keeps the one that it has."""
        ours = cookie(**kwargs)
        name, _, attributes = ours.line(TOKEN).partition(f"={TOKEN}")

        assert ours.expired_line() == (
            f"{name}=; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT{attributes}"
        )

    def test_attributes_are_written_as_they_are_set(self) -> None:
        """Behaviours 54, 57: all six of them, in whatever case they are named."""
        ours = cookie(
            Domain="example.com",
            PATH="/shop",
            Secure=True,
            HttpOnly=False,
            SameSite="none",
            partitioned=True,
        )

        assert ours.line("x") == (
            "__Secure-session=x; Path=/shop; Domain=example.com; Secure;"
            " SameSite=None; Partitioned"
        )

    def test_partitioned_is_written(self) -> None:
        """Behaviour 57: on every Python, as `http.cookies` has no say in it."""
        line = cookie(partitioned=True, samesite="None").line("x")

        assert line.endswith("; SameSite=None; Partitioned")

    def test_without_samesite_the_browser_decides(self) -> None:
        """None leaves the attribute out."""
        assert "SameSite" not in cookie(samesite=None).line("x")


class PrefixTest:
    @pytest.mark.parametrize("secure", [True, False])
    @pytest.mark.parametrize("httponly", [True, False])
    @pytest.mark.parametrize("domain", [None, "example.com"])
    @pytest.mark.parametrize("path", ["/", "/shop"])
    def test_the_strongest_prefix_that_holds_is_taken(
        self, secure: bool, httponly: bool, domain: str | None, path: str
    ) -> None:
        """Behaviour 54: a browser then refuses what a sibling domain sets."""
        name = cookie(secure=secure, httponly=httponly, domain=domain, path=path).name

        if not secure:
            assert name == "session"
        elif domain or path != "/":
            assert name == "__Secure-session"
        elif httponly:
            assert name == "__Host-Http-session"
        else:
            assert name == "__Host-session"

    @pytest.mark.parametrize(
        "name", ["__Host-id", "__Host-Http-id", "__Secure-id", "__Http-id", "__id"]
    )
    def test_a_name_with_two_underscores_is_taken_literally(self, name: str) -> None:
        """Behaviour 54: no second prefix comes before it."""
        assert cookie(name).name == name

    def test_a_name_with_one_underscore_gets_a_prefix(self) -> None:
        """Behaviour 54: it is a name as any other."""
        assert cookie("_id").name == "__Host-Http-_id"


class ContradictionTest:
    """Every one is a `ValueError` that names both sides."""

    @pytest.mark.parametrize(
        ("name", "kwargs", "broken"),
        [
            ("__Host-id", {"domain": "example.com"}, "domain='example.com'"),
            ("__Host-id", {"path": "/shop"}, "path='/shop'"),
            ("__Host-id", {"secure": False}, "secure=False"),
            ("__HOST-id", {"path": "/shop"}, "path='/shop'"),
            ("__Secure-id", {"secure": False}, "secure=False"),
            ("__Http-id", {"httponly": False}, "httponly=False"),
            ("__Http-id", {"secure": False}, "secure=False"),
            ("__Host-Http-id", {"httponly": False}, "httponly=False"),
            ("__Host-Http-id", {"domain": "example.com"}, "domain='example.com'"),
            ("__Host-Http-id", {"path": "/shop"}, "path='/shop'"),
            ("__Host-Http-id", {"secure": False}, "secure=False"),
        ],
    )
    def test_a_prefix_promises_what_the_attributes_keep(
        self, name: str, kwargs: dict[str, Any], broken: str
    ) -> None:
        """Behaviour 54: a browser would refuse the cookie without a word."""
        with pytest.raises(ValueError, match="contradicts") as caught:
            CookieSettings(name, kwargs)

        assert str(caught.value) == (
            f"session_cookie_name={name!r} contradicts {broken} in"
            " session_cookie_kwargs: browsers refuse such a cookie. Change one of the"
            " two."
        )

    @pytest.mark.parametrize(
        ("attribute", "value"),
        [
            ("samesite", "None"),
            ("samesite", "none"),
            ("samesite", "NONE"),
            ("partitioned", True),
        ],
    )
    def test_what_needs_secure_says_so(self, attribute: str, value: object) -> None:
        """Behaviour 54: SameSite=None and Partitioned are for https."""
        with pytest.raises(ValueError, match="secure=False") as caught:
            CookieSettings("session", {attribute: value, "secure": False})

        assert str(caught.value) == (
            f"session_cookie_kwargs has {attribute}={value!r} with secure=False:"
            " browsers refuse such a cookie. Remove secure=False, or change"
            f" {attribute}."
        )

    @pytest.mark.parametrize("value", ["lax ", "no", "", "Lax; Secure"])
    def test_samesite_is_one_of_three(self, value: str) -> None:
        """Behaviour 54: a misspelt one would be no protection."""
        with pytest.raises(ValueError, match=r"^session_cookie_kwargs has samesite="):
            cookie(samesite=value)

    def test_samesite_names_the_three(self) -> None:
        """Behaviour 54: the message says what it may be."""
        with pytest.raises(ValueError, match="samesite") as caught:
            cookie(samesite="no")

        assert str(caught.value) == (
            "session_cookie_kwargs has samesite='no'; it is 'Lax', 'Strict' or 'None'."
        )

    @pytest.mark.parametrize("name", ["max_age", "expires", "expires_days", "colour"])
    def test_an_unknown_attribute_is_refused(self, name: str) -> None:
        """Behaviour 54: with those that there are, and where time is set."""
        with pytest.raises(ValueError, match="none of") as caught:
            cookie(**{name: 1})

        assert str(caught.value) == (
            f"session_cookie_kwargs has {name!r}, which is none of 'domain', 'path',"
            " 'secure', 'httponly', 'samesite', 'partitioned'. How long the cookie"
            " lasts is set by session_persistent and session_lifetime."
        )

    @pytest.mark.parametrize("name", ["secure", "httponly", "partitioned"])
    @pytest.mark.parametrize("value", [1, "yes", None])
    def test_a_flag_is_true_or_false(self, name: str, value: object) -> None:
        """Behaviour 54: "false" in a file of settings is not False."""
        with pytest.raises(ValueError, match="True or False") as caught:
            cookie(**{name: value})

        assert (
            str(caught.value)
            == f"session_cookie_kwargs has {name}={value!r}; it is True or False."
        )

    @pytest.mark.parametrize("name", ["domain", "path", "samesite"])
    @pytest.mark.parametrize("value", [1, "a;b", "a\r\nSet-Cookie: b", "é", "\x7f", ""])
    def test_what_cannot_stand_in_a_cookie_is_refused(
        self, name: str, value: object
    ) -> None:
        """Behaviour 54: nothing can be smuggled into the header."""
        with pytest.raises(ValueError, match="cannot stand") as caught:
            cookie(**{name: value})

        assert str(caught.value) == (
            f"session_cookie_kwargs has {name}={value!r}, which cannot stand in a"
            " cookie: it is to be a str of printable characters without ';'."
        )

    @pytest.mark.parametrize("path", ["shop", "../", None])
    def test_a_path_begins_with_a_slash(self, path: str | None) -> None:
        """Behaviour 54: a browser would put another one in its place."""
        with pytest.raises(ValueError, match="path") as caught:
            cookie(path=path)

        assert (
            str(caught.value)
            == f"session_cookie_kwargs has path={path!r}; it begins with '/'."
        )

    @pytest.mark.parametrize(
        "name",
        ["", "a b", "a;b", "a=b", "é", "a\n", "a,b", '"a"', "a/b", "__Host-\x00"],
    )
    def test_a_name_consists_of_what_a_name_may(self, name: str) -> None:
        """Behaviour 54: else the header would be another one."""
        with pytest.raises(ValueError, match="is not a cookie's name") as caught:
            CookieSettings(name, {})

        assert str(caught.value) == (
            f"session_cookie_name={name!r} is not a cookie's name. Use letters,"
            " digits, '-' and '_'."
        )


class LoopbackTest:
    @pytest.mark.parametrize(
        ("name", "kwargs", "line"),
        [
            ("session", {}, "session=x; Path=/; HttpOnly; SameSite=Lax"),
            ("__Host-id", {}, "id=x; Path=/; HttpOnly; SameSite=Lax"),
            ("__Host-Http-id", {}, "id=x; Path=/; HttpOnly; SameSite=Lax"),
            ("__Secure-id", {}, "id=x; Path=/; HttpOnly; SameSite=Lax"),
            ("__Http-id", {}, "id=x; Path=/; HttpOnly; SameSite=Lax"),
            ("__secure-id", {}, "id=x; Path=/; HttpOnly; SameSite=Lax"),
            ("__id", {}, "__id=x; Path=/; HttpOnly; SameSite=Lax"),
            (
                "session",
                {"samesite": "None"},
                "session=x; Path=/; HttpOnly; SameSite=Lax",
            ),
            (
                "session",
                {"samesite": "NONE", "partitioned": True},
                "session=x; Path=/; HttpOnly; SameSite=Lax",
            ),
            ("session", {"samesite": None}, "session=x; Path=/; HttpOnly"),
            (
                "session",
                {"samesite": "Strict", "path": "/shop", "domain": "a.localhost"},
                "session=x; Path=/shop; Domain=a.localhost; HttpOnly; SameSite=Strict",
            ),
            ("session", {"httponly": False}, "session=x; Path=/; SameSite=Lax"),
        ],
    )
    def test_it_goes_without_secure_and_without_a_prefix(
        self, name: str, kwargs: dict[str, Any], line: str
    ) -> None:
        """Behaviour 58: and without what a browser takes with Secure alone."""
        assert CookieSettings(name, kwargs).on_loopback().line("x") == line

    def test_one_without_secure_is_the_same(self) -> None:
        """Behaviour 58: there is nothing to take away."""
        ours = cookie(secure=False)

        assert ours.on_loopback() is ours

    def test_whatever_is_allowed_has_a_form_for_loopback(self) -> None:
        """Behaviour 58: every contradiction is told when the settings are read."""
        for samesite, partitioned, httponly, domain, path in itertools.product(
            [None, "Lax", "strict", "None", "none", "NONE"],
            [False, True],
            [False, True],
            [None, "example.com"],
            ["/", "/shop"],
        ):
            ours = cookie(
                samesite=samesite,
                partitioned=partitioned,
                httponly=httponly,
                domain=domain,
                path=path,
            ).on_loopback()

            assert not ours.secure
            assert ours.name == "session"
            assert "Secure" not in ours.line("x")
            assert "Partitioned" not in ours.line("x")
