"""What happens atomically in Redis, as Lua over core commands (Redis 6.2 or newer, Valkey).

All keys of a call share one hash tag:

    flows:{TAG}:call         hash: turn (the fence), lease (ms), opened, incarnation, head, done
    flows:{TAG}:checkpoints  hash: NAMESPACE|CHECKPOINT-ID → checkpoint, metadata, parent
    flows:{TAG}:steps        list: the audit trail, oldest first
    flows:{TAG}:writes       hash: pending writes of interrupted runs

Redis' own clock measures leases, so that replicas need not agree on the time.
"""

_CLOCK = """
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
"""

BEGIN = (
    _CLOCK
    + """
-- KEYS call checkpoints steps writes   ARGV token lease_ms opened incarnation
local had = redis.call('HMGET', KEYS[1], 'lease', 'turn', 'head', 'incarnation')
if had[1] and tonumber(had[1]) > now and had[2] ~= ARGV[1] then return {0, tonumber(had[1]) - now} end
local incarnation = had[4] or ARGV[4]
redis.call('HSET', KEYS[1], 'turn', ARGV[1], 'lease', string.format('%.0f', now + ARGV[2]),
  'opened', ARGV[3], 'incarnation', incarnation)
local blob, writes = false, {}
if had[3] then
  for i = 1, 4 do redis.call('PERSIST', KEYS[i]) end
  blob = redis.call('HGET', KEYS[2], '|' .. had[3])
  writes = redis.call('HGETALL', KEYS[4])
end
return {1, incarnation, had[3], blob, writes}
"""
)

COMMIT = """
-- KEYS call checkpoints steps writes
-- ARGV token parent head blob ttl release trail steps...
local function expire()
  if ARGV[5] ~= '0' then for i = 1, 4 do redis.call('EXPIRE', KEYS[i], ARGV[5]) end end
end
local function trail() return ARGV[7] == '1' and redis.call('LRANGE', KEYS[3], 0, -1) or {} end
local had = redis.call('HMGET', KEYS[1], 'turn', 'head', 'done')
if had[3] == ARGV[1] and had[2] == ARGV[3] then return {1, trail()} end
if had[1] ~= ARGV[1] or (had[2] or '') ~= ARGV[2] then return {0} end
if ARGV[4] ~= '' then redis.call('HSET', KEYS[2], '|' .. ARGV[3], ARGV[4]) end
redis.call('HSET', KEYS[1], 'head', ARGV[3])
for i = 8, #ARGV do redis.call('RPUSH', KEYS[3], ARGV[i]) end
if ARGV[6] == '1' then
  redis.call('HSET', KEYS[1], 'done', ARGV[1])
  redis.call('HDEL', KEYS[1], 'turn', 'lease', 'opened')
  expire()
end
return {1, trail()}
"""

ABANDON = """
-- KEYS call checkpoints steps writes   ARGV token ttl
local had = redis.call('HMGET', KEYS[1], 'turn', 'head')
if had[1] ~= ARGV[1] then return 0 end
if not had[2] then return redis.call('DEL', KEYS[1]) end
redis.call('HDEL', KEYS[1], 'turn', 'lease', 'opened')
if ARGV[2] ~= '0' then for i = 1, 4 do redis.call('EXPIRE', KEYS[i], ARGV[2]) end end
return 1
"""

RENEW = (
    _CLOCK
    + """
-- KEYS call   ARGV token lease_ms
if redis.call('HGET', KEYS[1], 'turn') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'lease', string.format('%.0f', now + ARGV[2]))
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
-- KEYS call checkpoints steps writes
local had = redis.call('HMGET', KEYS[1], 'lease', 'head')
if had[1] and tonumber(had[1]) > now then return -1 end
redis.call('DEL', unpack(KEYS))
return had[2] and 1 or 0
"""
)
