"""The scripts that run in the server, each by the digest of its text.

A user's set has the keys of the user's records in hexadecimal, each with the time
of its expiry in milliseconds as the score.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

# The text of each script, by its digest.
_texts: dict[str, str] = {}


# By how many milliseconds a member of a set outlives its record. In a cluster they
# may be on two servers, whose clocks differ.
_GRACE = 300_000

# list(set, key, expires): adds a record to the set of its user, removes expired ones,
# and has the set expire after its last member.
_LIST = f"""
local function list(set, key, expires)
    redis.call('ZADD', set, expires == '' and '+inf' or expires, key)
    local now = redis.call('TIME')
    local past = string.format('%.0f', now[1] * 1000 - {_GRACE})
    redis.call('ZREMRANGEBYSCORE', set, '-inf', past)
    local last = redis.call('ZRANGE', set, -1, -1, 'WITHSCORES')
    if last[2] == 'inf' then
        redis.call('PERSIST', set)
    elseif last[2] then
        redis.call('PEXPIREAT', set, string.format('%.0f', last[2] + {_GRACE}))
    end
end
"""


def call(
    digest: str, keys: Sequence[bytes], *arguments: bytes | str | int
) -> tuple[bytes | str | int, ...]:
    """Returns the command that runs a script by its digest."""
    return ("EVALSHA", digest, len(keys), *keys, *arguments)


def with_text(
    command: tuple[bytes | str | int, ...],
) -> tuple[bytes | str | int, ...]:
    """Returns the same command for a server that does not know the script."""
    return ("EVAL", _texts[str(command[1])], *command[2:])


def _script(text: str) -> str:
    digest = hashlib.sha1(text.encode()).hexdigest()
    _texts[digest] = text
    return digest


#: KEYS: the set of a user. ARGV: the key of a record, when it expires.
ENLIST = _script(_LIST + "list(KEYS[1], ARGV[1], ARGV[2])")

#: KEYS: a record, the set of its user. ARGV: the value, when it expires, the key of the
#: record in the set. Returns 1, or nothing if the record exists.
INSERT = _script(
    _LIST
    + """
local done
if ARGV[2] == '' then
    done = redis.call('SET', KEYS[1], ARGV[1], 'NX')
else
    done = redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PXAT', ARGV[2])
end
if not done then
    return false
end
list(KEYS[2], ARGV[3], ARGV[2])
return 1
"""
)

#: KEYS: a record; the set of its user, if there is one. ARGV: as those of `INSERT`, and
#: the version that is replaced. Returns the user of the replaced record if it had
#: another one, otherwise an empty string; nothing if it had another version.
REPLACE = _script(
    _LIST
    + """
local head = redis.call('GETRANGE', KEYS[1], 0, 11)
if string.sub(head, 1, 8) ~= ARGV[4] then
    return false
end
local left = ''
local length = struct.unpack('>i4', string.sub(head, 9, 12))
if length > 0 then
    local user = redis.call('GETRANGE', KEYS[1], 12, 11 + length)
    local head = string.sub(head, 9, 12) .. user
    if string.sub(ARGV[1], 9, 8 + #head) ~= head then
        left = user
    end
end
if ARGV[2] == '' then
    redis.call('SET', KEYS[1], ARGV[1])
else
    redis.call('SET', KEYS[1], ARGV[1], 'PXAT', ARGV[2])
end
if KEYS[2] then
    list(KEYS[2], ARGV[3], ARGV[2])
end
return left
"""
)

#: KEYS: the set of a user, records. ARGV: the keys of the records in the set. Removes
#: from the set those of which there is no record.
DELIST = _script(
    """
for number = 2, #KEYS do
    if redis.call('EXISTS', KEYS[number]) == 0 then
        redis.call('ZREM', KEYS[1], ARGV[number - 1])
    end
end
"""
)
