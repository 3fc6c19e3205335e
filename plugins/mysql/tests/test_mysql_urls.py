"""Tests of what the MySQL backend reads from its URL and its options."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from tornado_sessions_mysql import MySQLBackend
from tornado_sessions_mysql.urls import make_ssl_context, read_url


def message_of(url: str) -> str:
    """Returns the message of the error for a URL."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the message is compared
        MySQLBackend.from_url(url, {})
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    return str(caught.value)


def test_a_url_names_server_database_and_login() -> None:
    """What is special in the login is escaped."""
    target = read_url("mysql://a%40b:p%3A%2F%C3%A9@db.example:3307/shop")

    assert target.host == "db.example"
    assert target.port == 3307
    assert target.user == "a@b"
    assert target.password == "p:/é".encode()
    assert target.database == "shop"


def test_what_a_url_leaves_out_has_a_default() -> None:
    """As with MySQL's own clients."""
    target = read_url("mysql:///shop")

    assert (target.host, target.port) == ("localhost", 3306)
    assert (target.user, target.password) == (None, b"")


def test_a_url_may_have_an_ipv6_address() -> None:
    """It is in brackets."""
    target = read_url("mysql://u:p@[::1]:3307/shop")

    assert (target.host, target.port) == ("::1", 3307)


def test_the_options_follow_a_question_mark() -> None:
    """They are the arguments of the constructor."""
    backend = MySQLBackend.from_url(
        "mysql://u:p@h/shop?table=web_sessions&timeout=5&max_bytes=1000"
        "&unix_socket=/run/mysqld/mysqld.sock",
        {},
    )

    assert backend.table == "web_sessions"
    assert backend.timeout == 5
    assert backend.max_bytes == 1000
    assert backend.unix_socket == "/run/mysqld/mysqld.sock"


def test_the_address_in_messages_has_no_password() -> None:
    """Behaviour 8: nor has the representation of anything."""
    backend = MySQLBackend("mysql://user:hunter2@db.example/shop")

    assert backend.address == "db.example:3306/shop"
    assert "hunter2" not in repr(backend)
    assert "hunter2" not in repr(read_url("mysql://user:hunter2@db.example/shop"))


_FORM = (
    "The session backend 'mysql' cannot use its URL. It is to be of the form"
    " mysql://user:password@host:port/database, with what is special in the user and the"
    " password escaped by urllib.parse.quote(). In code the options are arguments."
)


@pytest.mark.parametrize(
    "url",
    [
        "mysql",
        "mysql:",
        "mysql://localhost",
        "mysql://u:hunter2@two@host/shop",
        "mysql://u:hunter2/two@host/shop",
        "mysql://u:hunter2#two@host/shop",
        "mysql://u:hunter2?timeout=2@host/shop",
        "mysql://u:hunter2@host:port/shop",
        "mysql://u:hunter2@host:65536/shop",
        "mysql://u:hunter2@[::1/shop",
        "mysql://u:hunter2@a,b/shop",
        "mysql://u:hunter2@host/shop/two",
        "mysql+hunter2://u@host/shop",
    ],
)
def test_a_url_of_another_form_is_refused(url: str) -> None:
    """Behaviour 89: with neither the password nor a part of it."""
    message = message_of(url)

    assert "hunter2" not in message
    assert "two" not in message
    if "timeout" not in url:
        assert message == _FORM


def test_a_url_without_a_database_is_refused() -> None:
    """The server would otherwise refuse each statement."""
    assert message_of("mysql://u:p@host/") == (
        "The URL of the session backend 'mysql' names no database: write"
        " mysql://user:password@host/database."
    )


def test_options_are_no_part_of_the_url_in_code() -> None:
    """There they are arguments, which are typed."""
    with pytest.raises(ValueError, match="In code the options are arguments"):
        MySQLBackend("mysql://localhost/shop?timeout=5")


def test_an_unknown_option_is_refused() -> None:
    """The message lists those that there are."""
    assert message_of("mysql://h/shop?tabel=x") == (
        "The URL has an option that the session backend 'mysql' does not have."
        " Did you mean 'table'? Its options are 'table', 'unix_socket', 'ssl_mode',"
        " 'ssl_ca', 'ssl_cert', 'ssl_key', 'timeout', 'max_bytes'."
    )


@pytest.mark.parametrize("table", ["", "Sessions", "a-b", "1a", "a" * 57, "a`b", "a.b"])
def test_a_table_of_another_name_is_refused(table: str) -> None:
    """It is a part of the statements, and the names of its indexes are longer."""
    assert message_of(f"mysql://h/shop?table={table}") == (
        "The option 'table' must be a name of at most 56 lower-case ASCII letters, digits"
        " and underscores that does not begin with a digit."
    )


def test_max_bytes_beyond_a_packet_is_refused() -> None:
    """A packet of the protocol has at most 1 GiB."""
    assert message_of("mysql://h/shop?max_bytes=1000000001") == (
        "The option 'max_bytes' must be at most 1000000000."
    )


# TLS.


def test_connections_are_not_encrypted_by_default() -> None:
    """The driver cannot ask the server whether it can."""
    assert make_ssl_context(None, None, None, None) is None
    assert make_ssl_context("disabled", None, None, None) is None


@pytest.mark.parametrize(
    ("mode", "verify", "checks_name"),
    [
        ("required", ssl.CERT_NONE, False),
        ("verify_ca", ssl.CERT_REQUIRED, False),
        ("verify_identity", ssl.CERT_REQUIRED, True),
    ],
)
def test_a_mode_says_what_is_checked(
    mode: str, verify: ssl.VerifyMode, checks_name: bool
) -> None:
    """They are those of MySQL's own clients."""
    context = make_ssl_context(mode, None, None, None)

    assert context is not None
    assert context.verify_mode == verify
    assert context.check_hostname is checks_name


def test_an_unknown_mode_is_refused() -> None:
    """Such as one of PostgreSQL."""
    assert message_of("mysql://h/shop?ssl_mode=require") == (
        "The option 'ssl_mode' must be one of 'disabled', 'required', 'verify_ca',"
        " 'verify_identity'."
    )


@pytest.mark.parametrize("option", ["ssl_ca", "ssl_cert"])
def test_certificates_need_an_encrypted_connection(option: str) -> None:
    """Whoever names one expects that it is used."""
    assert message_of(f"mysql://h/shop?ssl_mode=disabled&{option}=x.pem") == (
        "The options 'ssl_ca' and 'ssl_cert' have no effect with 'ssl_mode=disabled'."
        " Remove that, or them."
    )


def test_a_key_needs_its_certificate() -> None:
    """By itself it says nothing."""
    assert message_of("mysql://h/shop?ssl_mode=required&ssl_key=x.pem") == (
        "The option 'ssl_key' needs the option 'ssl_cert'."
    )


@pytest.mark.parametrize("option", ["ssl_ca", "ssl_cert"])
def test_a_file_that_is_missing_is_refused(option: str) -> None:
    """Behaviour 89: its path may be a part of a password that is not escaped."""
    assert message_of(f"mysql://h/shop?{option}=/nowhere/hunter2.pem") == (
        f"The file of the option {option!r} cannot be used: No such file or directory."
    )


def test_a_file_without_certificates_is_refused(tmp_path: Path) -> None:
    """When the application starts, and not at the first request."""
    path = tmp_path / "ca.pem"
    path.write_text("nothing")

    message = message_of(f"mysql://h/shop?ssl_ca={path}")

    assert message.startswith("The file of the option 'ssl_ca' cannot be used: ")
