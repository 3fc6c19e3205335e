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
``_status_code``. They are used in ``handler``, and two of them in ``binding``. Tests
pin them.

`SessionMixin`, in ``handler``, overrides what it has to and asks an ``Exchange`` for
the rest: the session of one request and its response. That one makes its parts when
they are first needed, and no part knows the handler: the ids of the request
(``request``), the commit that the response waits for (``response``), its headers
(``headers``, ``links``), the XSRF token (``xsrf``), an open WebSocket
(``websockets``), a response that stays open (``streams``). `bind_session`, in
``binding``, does the same for a handler that derives from something else.
"""

from tornado_sessions.web.binding import SessionBinding, bind_session
from tornado_sessions.web.handler import SessionMixin
from tornado_sessions.web.recent import recent_login
from tornado_sessions.web.status import SessionStatusHandler

__all__ = [
    "SessionBinding",
    "SessionMixin",
    "SessionStatusHandler",
    "bind_session",
    "recent_login",
]
