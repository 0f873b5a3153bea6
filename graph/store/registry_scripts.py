"""What happens atomically in the registry of agents, as Lua over core commands (Redis 6.2 or newer, Valkey).

All keys of a tenant share one hash tag:

    flows:{agents:TENANT}:revision      string: another one after every change
    flows:{agents:TENANT}:registered    hash: instance → seconds it lives without a heartbeat, when it came, its JSON
    flows:{agents:TENANT}:expiries      sorted set: instance → when it is forgotten, milliseconds
    flows:{agents:TENANT}:off           hash: agent → who switched it off (JSON)
    flows:{agents:TENANT}:weights       hash: agent → weights of its versions (JSON)
    flows:{agents:TENANT}:history       list: what happened (JSON), the last one first, so many at most
    flows:{agents:TENANT}:reports       hash: replica → what it has in flight at each endpoint (JSON)
    flows:{agents:TENANT}:versions      hash: replica → calls and errors of each version of each agent (JSON)
    flows:{agents:TENANT}:heard         sorted set: replica → when it reported last, milliseconds
    flows:{agents:TENANT}:load          sorted set: endpoint → what all replicas have in flight there

The last four are gone when no replica has reported for a while. Redis' own clock measures, so that replicas need not
agree on the time. Each script may run twice, because the client repeats one whose answer was lost.
"""

PARTS = ("revision", "registered", "expiries", "off", "weights", "history", "reports", "versions", "heard", "load")
HISTORY = 1_000
"""How many happenings are kept."""

_BASE = (
    """
-- KEYS revision registered expiries off weights history reports versions heard load
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local function changed()
  -- Microseconds and not a count, so that a store that lost everything never says a revision that was said before.
  local had = tonumber(redis.call('GET', KEYS[1]) or '0')
  redis.call('SET', KEYS[1], string.format('%.0f', math.max(t[1] * 1000000 + t[2], had + 1)))
end
local function happened(entry)
  if entry == '' or redis.call('LINDEX', KEYS[6], 0) == entry then return end
  redis.call('LPUSH', KEYS[6], entry)
  redis.call('LTRIM', KEYS[6], 0, """
    + f"{HISTORY - 1}"
    + """)
end
local function remove(name, what, by, why)
  local kept = redis.call('HGET', KEYS[2], name)
  redis.call('ZREM', KEYS[3], name)
  if not kept then return 0 end
  redis.call('HDEL', KEYS[2], name)
  changed()
  local ttl, told = string.match(kept, '^(%S*) %S* (.*)$')
  told = cjson.decode(told)
  local about = {agent_type = told.agent_type, url = told.url, version = told.version}
  why = why or ('no heartbeat for ' .. ttl .. ' s')
  happened(cjson.encode({at = now, agent = name, what = what, by = by, why = why, details = about}))
  return 1
end
for _, name in ipairs(redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', now)) do remove(name, 'expired', 'registry') end
"""
)

_ALL = """
  redis.call('HGETALL', KEYS[2]), redis.call('ZRANGE', KEYS[3], 0, -1, 'WITHSCORES'),
  redis.call('HGETALL', KEYS[4]), redis.call('HGETALL', KEYS[5])}
"""

REGISTER = (
    _BASE
    + """
-- ARGV name json at ttl most entry   (ttl in seconds, empty for ever)
local had = redis.call('HGET', KEYS[2], ARGV[1])
if not had and redis.call('HLEN', KEYS[2]) >= tonumber(ARGV[5]) then return {0} end
local at, ends = ARGV[3], ''
local since = had and string.match(had, '^%S* (%S*) ')
if since and string.match(had, '^%S* %S* (.*)$') == ARGV[2] then at = since
else changed(); happened(ARGV[6]) end
redis.call('HSET', KEYS[2], ARGV[1], ARGV[4] .. ' ' .. at .. ' ' .. ARGV[2])
if ARGV[4] == '' then redis.call('ZREM', KEYS[3], ARGV[1])
else
  ends = string.format('%.0f', now + ARGV[4] * 1000)
  redis.call('ZADD', KEYS[3], ends, ARGV[1])
end
return {1, at, ends}
"""
)

HEARTBEAT = (
    _BASE
    + """
-- ARGV name ttl   (empty for the one that it registered with)
local had = redis.call('HGET', KEYS[2], ARGV[1])
if not had then return {} end
local ttl, rest = string.match(had, '^(%S*)( .*)$')
if ARGV[2] ~= '' then
  ttl, had = ARGV[2], ARGV[2] .. rest
  redis.call('HSET', KEYS[2], ARGV[1], had)
end
if ttl == '' then return {had, ''} end
local ends = string.format('%.0f', now + ttl * 1000)
redis.call('ZADD', KEYS[3], ends, ARGV[1])
return {had, ends}
"""
)

REMOVE = (
    _BASE
    + """
-- ARGV name by why
return remove(ARGV[1], 'removed', ARGV[2], ARGV[3])
"""
)

GET = (
    _BASE
    + """
-- ARGV name
return {redis.call('HGET', KEYS[2], ARGV[1]) or '', redis.call('ZSCORE', KEYS[3], ARGV[1]) or ''}
"""
)

READ = (
    _BASE
    + """
return {redis.call('GET', KEYS[1]) or '0',"""
    + _ALL
)

SET = (
    _BASE
    + """
-- ARGV which agent json entry most [seen]   (which: 4 off, 5 weights; empty json takes it away; what has to be there)
local key = KEYS[tonumber(ARGV[1])]
local had = redis.call('HGET', key, ARGV[2])
if had and had == ARGV[3] then return 1 end
if ARGV[6] and (had or '') ~= ARGV[6] then return 0 end
if ARGV[3] == '' then
  if redis.call('HDEL', key, ARGV[2]) == 0 then return 0 end
else
  if not had and redis.call('HLEN', key) >= tonumber(ARGV[5]) then return -1 end
  redis.call('HSET', key, ARGV[2], ARGV[3])
end
changed()
happened(ARGV[4])
return 1
"""
)

HAPPENED = (
    _BASE
    + """
-- ARGV entry
happened(ARGV[1])
return 1
"""
)

_DROP = """
local function drop(replica)
  redis.call('HDEL', KEYS[7], replica)
  redis.call('HDEL', KEYS[8], replica)
  redis.call('ZREM', KEYS[9], replica)
end
local function recount()
  local sums = {}
  for _, report in ipairs(redis.call('HVALS', KEYS[7])) do
    for url, load in pairs(cjson.decode(report)) do sums[url] = (sums[url] or 0) + load end
  end
  redis.call('DEL', KEYS[10])
  for url, load in pairs(sums) do redis.call('ZADD', KEYS[10], load, url) end
end
"""

SYNC = (
    _BASE
    + _DROP
    + """
-- ARGV replica loads versions revision silent life most   (milliseconds; the endpoints told at most)
local joined = redis.call('ZADD', KEYS[9], now, ARGV[1]) == 1
local silent = redis.call('ZRANGEBYSCORE', KEYS[9], '-inf', now - ARGV[5])
for _, replica in ipairs(silent) do drop(replica) end
local before = redis.call('HGET', KEYS[7], ARGV[1])
redis.call('HSET', KEYS[7], ARGV[1], ARGV[2])
if joined or not before or #silent > 0 then recount()
elseif before ~= ARGV[2] then
  local was, is = cjson.decode(before), cjson.decode(ARGV[2])
  for url, load in pairs(is) do redis.call('ZINCRBY', KEYS[10], load - (was[url] or 0), url) end
  for url, load in pairs(was) do
    if not is[url] then redis.call('ZINCRBY', KEYS[10], -load, url) end
  end
  redis.call('ZREMRANGEBYSCORE', KEYS[10], '-inf', 0)
end
if ARGV[3] == '{}' then redis.call('HDEL', KEYS[8], ARGV[1])
else redis.call('HSET', KEYS[8], ARGV[1], ARGV[3]) end
for place = 7, 10 do redis.call('PEXPIRE', KEYS[place], ARGV[6]) end
local revision = redis.call('GET', KEYS[1]) or '0'
local loads = redis.call('ZREVRANGE', KEYS[10], 0, ARGV[7] - 1, 'WITHSCORES')
local versions = redis.call('HVALS', KEYS[8])
if revision == ARGV[4] then return {revision, loads, versions} end
return {revision, loads, versions,"""
    + _ALL
)

LEAVE = (
    _BASE
    + _DROP
    + """
-- ARGV replica
drop(ARGV[1])
recount()
return 1
"""
)
