"""Measures other session libraries beside ours, in one run on one machine.

A peer is a program of any language that serves the routes below. The runner,
``python -m benchmarks.peers``, starts it with one argument: the URL of its store,
such as ``redis://:password@127.0.0.1:6379``, or ``memory`` or ``cookie``.

The program is one process, which is bound to one core. (One that forks another may
say in "pid" which of them keeps the sessions.) It listens on 127.0.0.1, on free
ports. When it is ready, it prints one line of JSON, and nothing else ever, on
standard output::

    {"urls": {"bare": "http://127.0.0.1:…/", "untouched": …, …}}

What it writes to standard error is its reason if it ends before. SIGTERM ends it.
It runs as in production: no debugging, no access log, with the parsers in C that its
authors recommend, and with a cookie that is not limited to https.

All routes are GET and answer 200 with a short text, "hello" if nothing else is said.
Each is an application of its own on a port of its own, all of which share the
store, unless the framework finds a route at the same cost wherever it is listed.

bare
    A handler of the same framework, without any middleware of sessions.
untouched
    Sessions are set up as in the following, and the handler does not use its session.
    It is measured without a cookie, and with that of a session, so that a library that
    begins or loads one in any case is seen to do so.
fill
    Begins a session with ten values: ``key0`` to ``key9``, of 15 letters each
    (`benchmarks.values.VALUES`).
read
    Answers the value ``key5``.
write
    Sets ``count`` to an integer of seven digits, and never to the one of before
    (`benchmarks.values.change`).
fill_4k, write_4k
    The same with values of 400 letters, so that the session takes 4 KB. A store whose
    cookie would then be larger than the 4096 bytes that browsers keep has neither.
counter
    Reads ``n`` (0 if it is missing), waits for 5 ms without blocking other requests,
    and sets ``n`` to one more.
keys
    Reads ``key5``, waits for 5 ms likewise, and sets the key that the query names, as
    in ``?key=k7``, to 1.
values
    Answers all values of the session, as an object of JSON.
collect
    Only of stores in the process: collects garbage, so that the memory can be read
    that sessions take.

The runner begins sessions with ``fill``, and sends back all cookies of an answer as
a browser does: the name and the value of each, joined with ``; ``.
"""
