"""What happens atomically in Redis, as Lua over core commands (Redis 6.2 or newer, Valkey).

All keys of a call share one hash tag:

    flows:{TAG}:call         hash: head, incarnation; with an open turn also turn (the fence), lease, opened, expires
    flows:{TAG}:checkpoints  hash: NAMESPACE|CHECKPOINT-ID → checkpoint, metadata, parent (empty beside a stock saver)
    flows:{TAG}:steps        list: the audit trail, oldest first
    flows:{TAG}:writes       hash: pending writes of interrupted runs

Redis' own clock measures leases, so that replicas need not agree on the time. Each script may run twice, because the
client repeats one whose answer was lost.
"""

_CLOCK = """
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
"""

BEGIN = (
    _CLOCK
    + """
-- KEYS call checkpoints steps writes   ARGV token lease_ms opened incarnation ttl
local had = redis.call('HMGET', KEYS[1], 'lease', 'turn', 'head', 'incarnation')
if had[1] and tonumber(had[1]) > now and had[2] ~= ARGV[1] then return {0} end
local incarnation, left = had[4] or ARGV[4], redis.call('PTTL', KEYS[1])
redis.call('HSET', KEYS[1], 'turn', ARGV[1], 'lease', string.format('%.0f', now + ARGV[2]),
  'opened', ARGV[3], 'incarnation', incarnation)
if not had[3] then
  redis.call('DEL', KEYS[2], KEYS[3], KEYS[4]) -- an evicted call may leave these behind
  if ARGV[5] ~= '0' then redis.call('EXPIRE', KEYS[1], ARGV[5]) end -- a first turn that crashes leaves nothing
  return {1, incarnation, false, false, {}}
end
if left >= 0 then redis.call('HSET', KEYS[1], 'expires', string.format('%.0f', now + left)) end
for i = 1, 4 do redis.call('PERSIST', KEYS[i]) end
return {1, incarnation, had[3], redis.call('HGET', KEYS[2], '|' .. had[3]), redis.call('HGETALL', KEYS[4])}
"""
)

COMMIT = """
-- KEYS call checkpoints steps writes
-- ARGV token parent head blob ttl release trail steps...
local function trail() return ARGV[7] == '1' and redis.call('LRANGE', KEYS[3], 0, -1) or {} end
if redis.call('HEXISTS', KEYS[2], '|' .. ARGV[3]) == 1 then return {1, trail()} end
local had = redis.call('HMGET', KEYS[1], 'turn', 'head')
if had[1] ~= ARGV[1] or (had[2] or '') ~= ARGV[2] then return {0} end
redis.call('HSET', KEYS[2], '|' .. ARGV[3], ARGV[4])
redis.call('HSET', KEYS[1], 'head', ARGV[3])
redis.call('HDEL', KEYS[1], 'expires')
for i = 8, #ARGV do redis.call('RPUSH', KEYS[3], ARGV[i]) end
if ARGV[6] == '1' then
  redis.call('HDEL', KEYS[1], 'turn', 'lease', 'opened')
  if ARGV[5] ~= '0' then for i = 1, 4 do redis.call('EXPIRE', KEYS[i], ARGV[5]) end end
end
return {1, trail()}
"""

ABANDON = """
-- KEYS call checkpoints steps writes   ARGV token ttl
-- A turn that committed nothing leaves the call the time it had: a stock saver's checkpoint lives no longer.
local had = redis.call('HMGET', KEYS[1], 'turn', 'head', 'expires')
if had[1] ~= ARGV[1] then return 0 end
if not had[2] then return redis.call('DEL', unpack(KEYS)) end
redis.call('HDEL', KEYS[1], 'turn', 'lease', 'opened', 'expires')
for i = 1, 4 do
  if had[3] then redis.call('PEXPIREAT', KEYS[i], had[3])
  elseif ARGV[2] ~= '0' then redis.call('EXPIRE', KEYS[i], ARGV[2]) end
end
return 1
"""

RENEW = (
    _CLOCK
    + """
-- KEYS call   ARGV token lease_ms
if redis.call('HGET', KEYS[1], 'turn') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'lease', string.format('%.0f', now + ARGV[2]))
local left = redis.call('PTTL', KEYS[1])
if left >= 0 and left < 2 * ARGV[2] then redis.call('PEXPIRE', KEYS[1], 2 * ARGV[2]) end
return 1
"""
)

READ = """
-- KEYS call checkpoints steps writes   ARGV namespace checkpoint_id steps
local head = ARGV[2]
if head == '' then head = redis.call('HGET', KEYS[1], ARGV[1] == '' and 'head' or 'head|' .. ARGV[1]) end
if not head then return {} end
return {head, redis.call('HGET', KEYS[2], ARGV[1] .. '|' .. head), redis.call('HGETALL', KEYS[4]),
  ARGV[3] == '1' and redis.call('LRANGE', KEYS[3], 0, -1) or {}}
"""

PUT = """
-- KEYS call checkpoints steps writes   ARGV namespace checkpoint_id blob ttl
local field = ARGV[1] == '' and 'head' or 'head|' .. ARGV[1]
redis.call('HSET', KEYS[2], ARGV[1] .. '|' .. ARGV[2], ARGV[3])
local head = redis.call('HGET', KEYS[1], field)
if not head or head < ARGV[2] then redis.call('HSET', KEYS[1], field, ARGV[2]) end
if ARGV[4] ~= '0' then for i = 1, 4 do redis.call('EXPIRE', KEYS[i], ARGV[4]) end end
return 1
"""

DELETE = (
    _CLOCK
    + """
-- KEYS call checkpoints steps writes   ARGV token
local had = redis.call('HMGET', KEYS[1], 'lease', 'head', 'turn')
if had[1] and tonumber(had[1]) > now and had[3] ~= ARGV[1] then return -1 end
redis.call('DEL', unpack(KEYS))
return had[2] and 1 or 0
"""
)

MARK = """
-- KEYS marker   ARGV kind force
local marked = redis.call('GET', KEYS[1])
if marked and marked ~= ARGV[1] and ARGV[2] ~= '1' then return marked end
redis.call('SET', KEYS[1], ARGV[1])
return ARGV[1]
"""
