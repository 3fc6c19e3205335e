"""Tornado's signed cookie, with JSON by hand."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import tornado.web

from benchmarks.peers.python.on_tornado import serve
from benchmarks.peers.python.serving import PAUSE
from benchmarks.values import VALUES, change


class Handler(tornado.web.RequestHandler):
    def load(self) -> dict[str, Any]:
        signed = self.get_signed_cookie("values")
        values: dict[str, Any] = json.loads(signed) if signed else {}
        return values

    def save(self, values: Mapping[str, Any]) -> None:
        self.set_signed_cookie("values", json.dumps(values), httponly=True)
        self.write("hello")


class UntouchedHandler(Handler):
    def get(self) -> None:
        self.write("hello")


class FillHandler(Handler):
    def get(self) -> None:
        self.save(VALUES)


class ReadHandler(Handler):
    def get(self) -> None:
        self.write(self.load()["key5"])


class WriteHandler(Handler):
    def get(self) -> None:
        values = self.load()
        change(values)
        self.save(values)


class CounterHandler(Handler):
    async def get(self) -> None:
        values = self.load()
        await asyncio.sleep(PAUSE)
        values["n"] = values.get("n", 0) + 1
        self.save(values)


class KeysHandler(Handler):
    async def get(self) -> None:
        values = self.load()
        await asyncio.sleep(PAUSE)
        values[self.get_query_argument("key")] = 1
        self.save(values)


class ValuesHandler(Handler):
    def get(self) -> None:
        self.write(self.load())


if __name__ == "__main__":
    serve(
        {
            "untouched": UntouchedHandler,
            "fill": FillHandler,
            "read": ReadHandler,
            "write": WriteHandler,
            "counter": CounterHandler,
            "keys": KeysHandler,
            "values": ValuesHandler,
        }
    )
