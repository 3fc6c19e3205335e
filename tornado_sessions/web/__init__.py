"""Gives Tornado's request handlers a session.

A complete application::

    import asyncio
    import tornado.web
    from tornado_sessions import SessionMixin

    class CountHandler(SessionMixin):
        def get(self):
            self.session["count"] = self.session.get("count", 0) + 1
            self.write(f"You were here {self.session['count']} times.\\n")

    async def main():
        app = tornado.web.Application(
            [("/", CountHandler)], session_backend="sqlite:///sessions.db"
        )
        app.listen(8888)
        await asyncio.Event().wait()

    if __name__ == "__main__":
        asyncio.run(main())

This is the only package that knows a `~tornado.web.RequestHandler`. It needs four
private names of Tornado: ``_finished``, ``_headers_written``, ``_headers`` and
``_status_code``.

A `SessionMixin` is made in layers, each of which adds one thing to the one before:
``base``, ``ids``, ``xsrf``, ``sockets``, ``mixin``.
"""

from tornado_sessions.web.mixin import SessionMixin
from tornado_sessions.web.recent import recent_login

__all__ = ["SessionMixin", "recent_login"]
