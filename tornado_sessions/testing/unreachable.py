"""Tests of a backend whose store cannot be reached, which need no server."""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket

from tornado_sessions.testing.pauses import LONGEST_PAUSE, longest_pause
from tornado_sessions.testing.proxies import Listener
from tornado_sessions.testing.records import messages_of, new_key
from tornado_sessions.testing.stores import (
    SHORT,
    StoreTests,
    fails,
    operations_of,
)


class UnreachableContract(StoreTests):
    """The port is closed, or nothing there speaks the protocol of the driver."""

    async def test_a_store_that_is_down_fails_every_operation(self) -> None:
        """Behaviour 66: with the driver's error as the cause, and no secret in it."""
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            await self.assert_all_fail(closed.getsockname()[1])

    async def test_a_store_that_never_answers_fails_every_operation(self) -> None:
        """Behaviour 66: each within its timeout."""
        with Listener() as listener:
            await self.assert_all_fail(listener.port)

    async def test_a_store_that_hangs_up_fails_every_operation(self) -> None:
        """Behaviour 66: each connection is closed as soon as it is there."""
        with Listener(answer=b"") as listener:
            await self.assert_all_fail(listener.port)

    async def test_a_server_of_another_kind_fails_every_operation(self) -> None:
        """Behaviour 66: its replies are not in the driver's protocol."""
        with Listener(answer=b"HTTP/1.1 400 Bad Request\r\n\r\n") as listener:
            await self.assert_all_fail(listener.port)

    async def test_a_constructor_connects_to_nothing(self) -> None:
        """Behaviour 67: the backend connects at its first use."""
        with Listener() as listener:
            self.open_backend(listener.port, SHORT)
            await asyncio.sleep(0.05)

            self.assertEqual(listener.accepted, 0)

    async def test_the_event_loop_goes_on_while_it_connects(self) -> None:
        """Behaviour 70: neither connecting nor waiting for a reply blocks it."""
        # Not what it takes to log everything.
        logging.getLogger().setLevel(logging.WARNING)
        with Listener() as listener:

            async def fail() -> None:
                backend = self.open_backend(listener.port, SHORT)
                operations = operations_of(backend).values()
                await asyncio.gather(*(fails(operation()) for operation in operations))

            self.assertLess(await longest_pause(fail), LONGEST_PAUSE)

    async def test_a_cancelled_operation_is_cancelled(self) -> None:
        """Behaviour 68: a cancellation is not turned into an error."""
        with Listener() as listener:
            for name in ("load", "insert", "delete"):
                with self.subTest(operation=name):
                    backend = self.open_backend(listener.port, 10 * SHORT)
                    running = asyncio.ensure_future(operations_of(backend)[name]())
                    await asyncio.sleep(SHORT / 10)
                    running.cancel()

                    with self.assertRaises(asyncio.CancelledError):
                        await asyncio.wait_for(running, self.patience)

    async def test_closing_does_not_wait_for_a_store_that_hangs(self) -> None:
        """A server that stops cannot wait for ever."""
        with Listener() as listener:
            backend = self.make_backend(listener.port, SHORT)
            await fails(backend.load(new_key()))

            await asyncio.wait_for(backend.close(), self.patience)

    async def assert_all_fail(self, port: int) -> None:
        key, data = new_key(), secrets.token_hex(16).encode()
        names = [*operations_of(self.open_backend(port, SHORT))]
        # Each on a backend of its own, so that none waits for the timeouts of others.
        backends = [self.open_backend(port, SHORT) for _ in names]
        operations = [
            operations_of(backend, key, data)[name]
            for name, backend in zip(names, backends, strict=True)
        ]
        for nth in ("first", "second"):
            errors = await asyncio.gather(*(self.caught(each()) for each in operations))
            for name, error in zip(names, errors, strict=True):
                with self.subTest(operation=name, nth=nth):
                    self.assert_is_failure(error)
                    said = "".join([messages_of(error), *self.logged])
                    shown = (key.hex(), str(key)[2:-1], data.decode(), data.hex())
                    for secret in shown:
                        self.assertNotIn(secret, said)
