"""A connection to memcached that all operations of a process share."""

from __future__ import annotations

import asyncio
import collections
import re
from typing import Any

import aiomcache
from aiomcache.pool import Connection

# How the replies to a command begin, by its first three letters. An error of the
# server counts only where the next reply is then known to be the next command's.
_STORED = (b"STORED\r\n", b"NOT_STORED\r\n", b"EXISTS\r\n", b"NOT_FOUND\r\n")
_REPLIES = {
    b"add": (*_STORED, b"SERVER_ERROR "),
    b"cas": (*_STORED, b"SERVER_ERROR "),
    b"del": (b"DELETED\r\n", b"NOT_FOUND\r\n", b"SERVER_ERROR "),
    b"ver": (b"VERSION ", b"SERVER_ERROR "),
}

# The first line of a reply is shorter.
_LONGEST_LINE = 2048

# How many characters of an unexpected reply an error shows.
_LONGEST_SHOWN = 100

# VALUE, the key, flags, the length of the data, the version.
_match_value = re.compile(rb"VALUE [^ ]+ \d+ (\d+) \d+\r\n").match

# Sixteen digits of a key are more than its fingerprint.
_long_hexadecimal = re.compile("[0-9a-fA-F]{16,}")


class ReplyError(Exception):
    """Raised when a reply does not fit its command. The next ones may not, either."""


class SharedConnection(asyncio.Protocol):
    """A connection with many commands in progress at once.

    Send them through `client`. All commands of one iteration of the event loop
    are sent in one write. memcached replies in the order of the commands, and
    each reply is matched to its command: the reply to a cancelled command is
    discarded and reaches no other one.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.transport: asyncio.Transport
        #: Whether no new command may be sent.
        self.is_retired = False
        self._unsent: list[bytes] = []
        # The commands without a reply, in order, sent or not.
        self._pending: collections.deque[_Exchange] = collections.deque()
        # The beginning of a reply.
        self._received = b""
        self.client = aiomcache.FlagClient("", get_flag_handler=_ignore_flags)
        # The driver's pool has one command at a time on a connection, and reuses
        # the connection of a cancelled command, whose reply is still to come. The
        # constructor takes no other pool.
        self.client._pool = self  # type: ignore[assignment]

    def retire(self) -> None:
        """Closes the connection as soon as no command waits for its reply."""
        self.is_retired = True
        if all(exchange.reply.done() for exchange in self._pending):
            # Unsent commands are dropped.
            self.transport.abort()

    def send(self, exchange: _Exchange) -> asyncio.Future[bytes]:
        """Sends a command and returns a future of its reply."""
        self._unsent.append(exchange.command)
        self._pending.append(exchange)
        if len(self._pending) == 1:
            self._send_all()
        elif len(self._unsent) == 1:
            self._loop.call_soon(self._send_all)
        return self._loop.create_future()

    # The pool that the driver's client uses.

    async def acquire(self) -> Connection:
        if self.transport.is_closing():
            raise EOFError("it closed the connection")
        exchange: Any = _Exchange(self)
        return Connection(exchange, exchange)

    def release(self, connection: Connection) -> None:
        pass

    # The protocol that the transport uses.

    def connection_made(self, transport: Any) -> None:  # noqa: ANN401
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        data, begin = self._received + data, 0
        try:
            while end := _end_of_reply(data, begin):
                self._hand_out(data[begin:end])
                begin = end
        except ReplyError as error:
            self._fail(error)
            return
        self._received = data[begin:]
        if self.is_retired:
            self.retire()

    def connection_lost(self, error: Exception | None) -> None:
        self._fail(error or EOFError("it closed the connection"))

    def _send_all(self) -> None:
        self.transport.write(b"".join(self._unsent))
        self._unsent.clear()

    def _fail(self, error: Exception) -> None:
        for exchange in self._pending:
            if not exchange.reply.done():
                exchange.reply.set_exception(error)
        self.retire()

    def _hand_out(self, reply: bytes) -> None:
        if not (self._pending and _is_reply_to(self._pending[0].command, reply)):
            raise ReplyError(_unexpected(reply))
        future = self._pending.popleft().reply
        if not future.done():
            future.set_result(reply)


class _Exchange:
    """One command and its reply. The driver takes it for a connection's streams."""

    __slots__ = ("_connection", "_position", "_received", "command", "reply")

    command: bytes
    #: The whole reply. It is cancelled when nobody waits for it any more.
    reply: asyncio.Future[bytes]

    def __init__(self, connection: SharedConnection) -> None:
        self._connection = connection
        self._received = b""
        self._position = 0

    def write(self, command: bytes) -> None:
        self.command = command
        self.reply = self._connection.send(self)

    async def drain(self) -> None:
        pass

    async def readline(self) -> bytes:
        if not self._received:
            try:
                self._received = await self.reply
            except asyncio.CancelledError:
                self._connection.retire()
                raise
        return self._read(self._received.index(b"\n", self._position) + 1)

    async def readexactly(self, length: int) -> bytes:
        return self._read(self._position + length)

    def set_exception(self, error: Exception) -> None:
        """Does nothing: a connection that failed is closed already."""

    def _read(self, end: int) -> bytes:
        begin, self._position = self._position, end
        return self._received[begin:end]


def _is_reply_to(command: bytes, reply: bytes) -> bool:
    """Whether ``reply`` can be the one to ``command``."""
    if command.startswith(b"gets "):
        return reply == b"END\r\n" or (
            reply.startswith(b"VALUE %b " % command[5:-2])
            and reply.endswith(b"\r\nEND\r\n")
        )
    return reply.startswith(_REPLIES[command[:3]])


def _end_of_reply(data: bytes, begin: int) -> int:
    """Returns where the reply at ``begin`` ends; 0 if it is not complete."""
    end = data.find(b"\n", begin) + 1
    if not end and len(data) - begin > _LONGEST_LINE:
        raise ReplyError("it answered a line without an end")
    if end and data.startswith(b"VALUE ", begin):
        matched = _match_value(data, begin)
        if matched is None:
            raise ReplyError(_unexpected(data[begin:end]))
        # The data, and END.
        end += int(matched[1]) + 7
    return end if end <= len(data) else 0


def _unexpected(reply: bytes) -> str:
    # The line of a record has its key in it.
    if reply.startswith(b"VALUE "):
        return "it answered a record that was not asked for"
    # Another kind of server may repeat the command, which has the key in it.
    text = _long_hexadecimal.sub("…", reply.decode(errors="replace").rstrip())
    return f"it answered {text[:_LONGEST_SHOWN]!r}"


async def _ignore_flags(data: bytes, flags: int) -> bytes:
    """Returns the data that another program stored. The core judges it."""
    return data
