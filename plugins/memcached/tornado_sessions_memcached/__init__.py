"""Keeps sessions in memcached: on one server, or spread over several."""

from __future__ import annotations

import asyncio
import collections
import hashlib
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar
from urllib.parse import parse_qsl, unquote

import aiomcache
from aiomcache.pool import Connection

from tornado_sessions.backend import Backend, Record
from tornado_sessions.deadlines import Deadlines
from tornado_sessions.errors import BackendError, ConflictError
from tornado_sessions.options import read_options

__all__ = ["MemcachedBackend"]

T = TypeVar("T")

# As memcached has it (protocol.txt): what is longer than thirty days is a date,
# and a date is 32 bits with a sign.
_LONGEST_SPAN = 30 * 86_400
_LAST_DATE = 2**31 - 1

# By how many seconds a server's clock may be ahead of ours, as in the core.
_CLOCK_SKEW = 300

# The longest key that memcached takes, and the digits of ours.
_KEY_LENGTH = 250
_DIGITS = 64

# A prime, so that to multiply with any number below it spreads keys evenly.
_PRIME = 2**61 - 1

# What memcached answers to `add` and `cas`, and what to `delete`.
_STORED = frozenset({b"STORED\r\n", b"NOT_STORED\r\n", b"EXISTS\r\n", b"NOT_FOUND\r\n"})
_DELETED = frozenset({b"DELETED\r\n", b"NOT_FOUND\r\n"})

# More than the first line of any answer has.
_LONGEST_LINE = 2048

_match_server = re.compile(
    r"(?P<host>\[[0-9a-z:.%_-]+\]|[a-z0-9._-]+)(:(?P<port>[0-9]{1,5}))?", re.IGNORECASE
).fullmatch

# Sixteen digits of a key are more than a fingerprint of it.
_long_hexadecimal = re.compile("[0-9a-fA-F]{16,}")

# How much of an answer that makes no sense an error shows.
_LONGEST_SHOWN = 100

_visible = re.compile(r"[!-~]*").fullmatch


class MemcachedBackend(Backend):
    """Keeps sessions in memcached, at ``servers`` such as ``"10.0.0.1:11211"``.

    Of several servers each keeps a share of the sessions. While one is down its
    share cannot be used, the others' goes on, and new sessions go to the others;
    to add or to remove one moves no session between the others.

    Each operation ends within ``timeout`` seconds. All operations of a process
    share one connection to each server. Keys begin with ``prefix``. A record has
    at most ``max_bytes`` bytes, which can be as many as 1,047,552, or more where the
    servers were started with a larger ``-I``.
    """

    durable = False
    shared = True
    lists_users = False
    immediate = False

    def __init__(
        self,
        *servers: str,
        timeout: float = 2.0,
        prefix: str = "session:",
        max_bytes: int = 65_536,
    ) -> None:
        self.servers = [_host_and_port(server) for server in servers]
        if not servers or len(set(self.servers)) < len(servers):
            raise ValueError(
                "The session backend 'memcached' needs a server, and each only once,"
                " as in 'memcached://10.0.0.1:11211,10.0.0.2:11211'."
            )
        if not 0 < timeout < float("inf"):
            raise ValueError(
                f"The option 'timeout' must be a number of seconds above 0, not"
                f" {timeout!r}."
            )
        if not _visible(prefix) or len(prefix) > _KEY_LENGTH - _DIGITS:
            raise ValueError(
                f"The option 'prefix' must be at most {_KEY_LENGTH - _DIGITS} visible"
                f" ASCII characters, not {prefix!r}."
            )
        if max_bytes < 1:
            raise ValueError(
                f"The option 'max_bytes' must be a number above 0, not {max_bytes!r}."
            )
        self.timeout = timeout
        self.prefix = prefix
        self.max_bytes: int = max_bytes
        self._loop: asyncio.AbstractEventLoop | None = None
        self._servers: list[_Server] = []

    @classmethod
    def from_url(cls, url: str, settings: Mapping[str, Any]) -> MemcachedBackend:
        """Makes the backend of ``memcached://host:11211``, or of ``…//a,b,c``.

        Options follow a question mark: ``timeout``, ``prefix`` and
        ``max_bytes``, as the constructor takes them. Raises `ValueError` for
        anything else.
        """
        # Not by urlsplit, which knows of one host only.
        servers, _, query = url.partition("://")[2].partition("?")
        pairs = parse_qsl(query, keep_blank_values=True)
        names = servers.removesuffix("/").split(",")
        # A password may have a question mark in it. A prefix may have an '@' in it.
        told = [servers]
        for name, text in pairs:
            if name != "prefix" or not all(map(_match_server, names)):
                told += name, text
        if any("@" in unquote(text) for text in told):
            raise ValueError(
                "The session backend 'memcached' takes no user and no password."
                " Protect the server by the network that it listens on."
            )
        options = read_options("memcached", query, _OPTIONS)
        return cls(*names, **options)

    async def load(self, key: bytes) -> Record | None:
        server = self._server_of(key)
        data, version = await server.run(aiomcache.FlagClient.gets, self._name(key))
        if data is None:
            return None
        if not version:
            # The driver leaves a version of 0 out of its next command, and the
            # server then takes what is in the session for a command.
            raise BackendError(
                f"memcached at {server.address} keeps no versions. Start it without -C."
            )
        return Record(data, version)

    async def save(self, key: bytes, record: Record) -> None:
        self.check_size(record)
        server, name, exptime = self._server_of(key), self._name(key), _exptime(record)
        data, version = record.data, record.version
        if version is None:
            stored = await server.run(aiomcache.FlagClient.add, name, data, exptime)
        else:
            stored = await server.run(
                aiomcache.FlagClient.cas, name, data, version, exptime
            )
        if not stored:
            raise ConflictError("Another version of the record is stored, or none.")

    async def delete(self, key: bytes) -> None:
        await self._server_of(key).run(aiomcache.FlagClient.delete, self._name(key))

    async def ping(self) -> None:
        """Asks all servers at once; raises `.BackendError` if none answers.

        While one does, its sessions go on and new ones go there.
        """
        self._begin()
        pings = (server.run(aiomcache.FlagClient.version) for server in self._servers)
        outcomes = await asyncio.gather(*pings, return_exceptions=True)
        failures = [each for each in outcomes if isinstance(each, BaseException)]
        if len(failures) == len(outcomes):
            raise failures[0]

    def avoids(self, key: bytes) -> bool:
        """Tells whether the server of ``key`` has just failed, and another has not.

        "Just" is within the time limit: so a server that is back gets new
        sessions again.
        """
        server = self._server_of(key)
        return server.is_suspect() and not all(
            other.is_suspect() for other in self._servers
        )

    async def close(self) -> None:
        """Closes the connections; another use opens new ones."""
        if self._loop is not asyncio.get_running_loop():
            return
        self._loop = None
        for server in self._servers:
            server.close()
        # The loop closes the sockets in its next turn.
        await asyncio.sleep(0)

    def _name(self, key: bytes) -> bytes:
        return (self.prefix + key.hex()).encode()

    def _server_of(self, key: bytes) -> _Server:
        """Answers the server that keeps ``key``.

        That is the one with the highest score of this key (rendezvous hashing),
        so that the order of servers does not matter, nor what others there are.
        """
        self._begin()
        if len(self._servers) == 1:
            return self._servers[0]
        # A key is a digest, so any eight bytes of it do.
        number = int.from_bytes(key[:8], "big")
        return max(self._servers, key=lambda server: number * server.factor % _PRIME)

    def _begin(self) -> None:
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            # The first use; or another process, whose connections stay its own.
            self._loop = loop
            deadlines = Deadlines(self.timeout)
            self._servers = [
                _Server(host, port, deadlines) for host, port in self.servers
            ]


_OPTIONS = {"timeout": float, "prefix": str, "max_bytes": int}


class _Server:
    """One server, with the one connection to it that all operations share.

    The driver takes it for its pool, from which each command gets a connection.
    What it gets is an `_Exchange`, so that many commands are under way at once.
    The driver's own pool has one on a connection, and would hand a connection
    whose command was cancelled, the answer still to come, to the next command.
    """

    def __init__(self, host: str, port: int, deadlines: Deadlines) -> None:
        self.address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        digest = hashlib.sha256(self.address.encode()).digest()
        self.factor = int.from_bytes(digest[:8], "big") % _PRIME
        self._host = host
        self._port = port
        self._deadlines = deadlines
        # Until when the last failure is held against it; 0 if it has made good.
        self._suspect_until = 0.0
        self._connection: _Connection | None = None
        self._client = aiomcache.FlagClient(host, port, get_flag_handler=_as_it_is)
        # There is no public name for it, and its type is that of the driver's own.
        self._client._pool = self  # type: ignore[assignment]

    async def run(self, command: Callable[..., Awaitable[T]], *arguments: object) -> T:
        """Answers what ``command``, a method of aiomcache's client, answers.

        Raises `.BackendError` for whatever it raises, and where it takes too long.
        """
        if self._suspect_until:
            # One goes ahead, and new sessions wait for how that ends.
            self._suspect()
        try:
            answer = await command(self._client, *arguments)
        except Exception as error:
            self._suspect()
            raise BackendError(self._explain(error)) from error
        self._suspect_until = 0.0
        return answer

    def is_suspect(self) -> bool:
        """Tells whether it has failed within the time limit, and not made good."""
        return self._suspect_until > asyncio.get_running_loop().time()

    def close(self) -> None:
        """Closes the connection, as soon as nobody waits for an answer."""
        if self._connection is not None:
            self._connection.retire()

    # What the client asks of a pool.

    async def acquire(self) -> Any:  # noqa: ANN401
        connection = self._connection
        if connection is None or not connection.is_usable():
            connection = self._connection = _Connection(self._host, self._port)
        exchange: Any = _Exchange(connection, self._deadlines)
        return Connection(reader=exchange, writer=exchange)

    def release(self, exchange: Any) -> None:  # noqa: ANN401
        pass

    def _suspect(self) -> None:
        now = asyncio.get_running_loop().time()
        self._suspect_until = now + self._deadlines.timeout

    def _explain(self, error: Exception) -> str:
        if isinstance(error, asyncio.TimeoutError):
            return (
                f"memcached at {self.address} did not answer within"
                f" {self._deadlines.timeout:g} seconds. Check the server and the"
                " network, or raise the option 'timeout'."
            )
        if isinstance(error, EOFError):
            return f"memcached at {self.address} closed the connection."
        if isinstance(error, OSError):
            return (
                f"memcached at {self.address} cannot be reached: {error}. Check that it"
                " runs there, and that no firewall is in between."
            )
        return f"memcached at {self.address} failed: {error}."


class _Exchange:
    """One command and its answer; the driver takes it for a connection's streams."""

    __slots__ = ("_answer", "_connection", "_deadlines", "_position", "command", "done")

    command: bytes
    #: Done with the whole answer, or when nobody waits for it any more.
    done: asyncio.Future[bytes]

    def __init__(self, connection: _Connection, deadlines: Deadlines) -> None:
        self._connection = connection
        self._deadlines = deadlines
        self._answer = b""
        self._position = 0

    def write(self, command: bytes) -> None:
        self.command = command
        self.done = self._connection.send(self)

    async def drain(self) -> None:
        pass

    async def readline(self) -> bytes:
        if not self._answer:
            try:
                self._answer = await self._deadlines.wait(self.done)
            except (asyncio.CancelledError, asyncio.TimeoutError):
                self._connection.retire()
                raise
        return self._read(self._answer.index(b"\n", self._position) + 1)

    async def readexactly(self, length: int) -> bytes:
        return self._read(self._position + length)

    def set_exception(self, error: Exception) -> None:
        """Does nothing: a connection that failed is closed already."""

    def is_answered_by(self, answer: bytes) -> bool:
        """Tells whether ``answer`` can be the one to the command.

        An error of the server counts where the next answer is then known to be
        that to the next command.
        """
        command = self.command
        if command == b"version\r\n":
            return answer.startswith((b"VERSION ", b"SERVER_ERROR "))
        if command.startswith(b"gets "):
            return answer == b"END\r\n" or (
                answer.startswith(b"VALUE %b " % command[5:-2])
                and answer.endswith(b"\r\nEND\r\n")
            )
        outcomes = _DELETED if command.startswith(b"delete ") else _STORED
        return answer in outcomes or answer.startswith(b"SERVER_ERROR ")

    def _read(self, end: int) -> bytes:
        begin, self._position = self._position, end
        return self._answer[begin:end]


class _Connection(asyncio.Protocol):
    """One connection, from the first command on until the first doubt.

    All that is written in one turn of the loop goes out at once. memcached
    answers in the order of the commands, and each answer is matched whole: so
    one that nobody waits for any more is dropped, and cannot reach another
    request. Still its connection is closed, when those who share it have theirs.
    """

    def __init__(self, host: str, port: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._retired = False
        # What is to be sent, and what was sent or is to be, in order.
        self._unsent: list[bytes] = []
        self._awaited: collections.deque[_Exchange] = collections.deque()
        # The beginning of an answer, and how many bytes it has at least.
        self._received = bytearray()
        self._expected = 0
        self._opening = self._loop.create_task(self._open(host, port))

    def is_usable(self) -> bool:
        """Tells whether it takes commands, as far as can be known."""
        if self._retired:
            return False
        return self._transport is None or not self._transport.is_closing()

    def send(self, exchange: _Exchange) -> asyncio.Future[bytes]:
        """Sends a command and answers a future of its answer."""
        self._unsent.append(exchange.command)
        self._awaited.append(exchange)
        if self._transport is not None:
            if len(self._awaited) == 1:
                self._send_all(self._transport)
            elif len(self._unsent) == 1:
                self._loop.call_soon(self._send_all, self._transport)
        return self._loop.create_future()

    def retire(self) -> None:
        """Takes no more commands, and closes when nobody waits for an answer."""
        self._retired = True
        if all(exchange.done.done() for exchange in self._awaited):
            self._opening.cancel()
            if self._transport is not None:
                # Nothing that is still to be sent is sent.
                self._transport.abort()

    async def _open(self, host: str, port: int) -> None:
        try:
            await self._loop.create_connection(lambda: self, host, port)
        except Exception as error:  # noqa: BLE001 - those who wait are told
            self._fail(error)

    def _send_all(self, transport: asyncio.Transport) -> None:
        transport.write(b"".join(self._unsent))
        self._unsent.clear()

    def _fail(self, error: Exception) -> None:
        for exchange in self._awaited:
            if not exchange.done.done():
                exchange.done.set_exception(error)
        self.retire()

    # What the transport calls.

    def connection_made(self, transport: Any) -> None:  # noqa: ANN401
        self._transport = transport
        self._send_all(transport)

    def data_received(self, data: bytes) -> None:
        if self._received:
            self._received += data
            if len(self._received) < self._expected:
                return
            data = bytes(self._received)
            self._received.clear()
        try:
            self._hand_out(data)
        except _OutOfStepError as error:
            self._fail(error)
            return
        if self._retired:
            self.retire()

    def connection_lost(self, error: Exception | None) -> None:
        self._fail(error or EOFError())

    def _hand_out(self, data: bytes) -> None:
        begin = 0
        while begin < len(data):
            end = _end_of_answer(data, begin)
            if end > len(data):
                self._received += data[begin:]
                self._expected = end - begin
                return
            answer = data[begin:end]
            if not (self._awaited and self._awaited[0].is_answered_by(answer)):
                raise _OutOfStepError(_unexpected(answer))
            done = self._awaited.popleft().done
            if not done.done():
                done.set_result(answer)
            begin = end


class _OutOfStepError(Exception):
    """Raised when an answer does not fit its command: the next may not, either."""


def _end_of_answer(data: bytes, begin: int) -> int:
    """Answers where the answer ends; beyond ``data`` if that is not all of it."""
    end = data.find(b"\n", begin) + 1
    if not end:
        if len(data) - begin > _LONGEST_LINE:
            raise _OutOfStepError("it answered a line without an end")
        return len(data) + 1
    if data.startswith(b"VALUE ", begin):
        try:
            # VALUE, key, flags, length, version; then the data and END.
            end += int(data[begin:end].split(b" ", 4)[3]) + 7
        except (IndexError, ValueError):
            raise _OutOfStepError(_unexpected(data[begin:end])) from None
    return end


def _unexpected(answer: bytes) -> str:
    # The line of a record has its key in it.
    if answer.startswith(b"VALUE "):
        return "it answered a record that was not asked for"
    # What is no memcached may repeat the command, and there is the key in it.
    text = _long_hexadecimal.sub("…", answer.decode(errors="replace").rstrip())
    return f"it answered {text[:_LONGEST_SHOWN]!r}"


async def _as_it_is(data: bytes, flags: int) -> bytes:
    """Returns what somebody else has stored; the core judges whether it is ours."""
    return data


def _host_and_port(server: str) -> tuple[str, int]:
    matched = _match_server(server)
    if matched is None or not 0 < int(matched["port"] or 11211) < 65_536:
        host, colon, port = server.partition(":")
        # What is no number may be a password, where the host was forgotten.
        shown = server if not colon or port.isdecimal() else f"{host}:…"
        raise ValueError(
            f"The session backend 'memcached' cannot use the server {shown!r}. Name"
            " a host and a port, as in 'memcached://10.0.0.1:11211' or"
            " 'memcached://[::1]:11211'; separate several by commas."
        )
    return matched["host"].lower().strip("[]"), int(matched["port"] or 11211)


def _exptime(record: Record) -> int:
    """Answers when memcached may forget the record, never too early.

    A span while that can be said: it is right whatever the server's clock says,
    which memcached reads only when it starts.
    """
    if not record.expires:
        return 0
    # One second more to round up, and one as memcached's clock ticks in seconds.
    span = max(int(record.expires - time.time()), 0) + 2
    if span <= _LONGEST_SPAN:
        return span
    date = int(record.expires) + 1 + _CLOCK_SKEW
    # 0 is never: what memory is wanted for is forgotten all the same.
    return date if date <= _LAST_DATE else 0
