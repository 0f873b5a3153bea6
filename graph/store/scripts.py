"""What happens atomically in Redis, as Lua over core commands (Redis 6.2 or newer, Valkey).

All keys of a call share one hash tag:

    flows:{TAG}:call         hash: head, incarnation, push, version (that of the flow, while a run has not ended),
                             chain (the hash of the last step), ttl (seconds it is kept, where that is its own);
                             with an open turn also turn (the fence), lease, opened, after (the event before its
                             first one), base (the head before it), expires (when the call would have)
    flows:{TAG}:checkpoints  hash: NAMESPACE|CHECKPOINT-ID → checkpoint, metadata, parent (empty beside a stock saver)
    flows:{TAG}:steps        list: the audit trail, oldest first; packed, as checkpoints are (`packing`)
    flows:{TAG}:writes       hash: pending writes of interrupted runs
    flows:{TAG}:keys         hash: what names a message → the number of the step that answered it, and the hash of
                             what it said
    flows:{TAG}:effects      hash: message id → a write that was sent and whose outcome is not committed yet
    flows:{TAG}:audit        hash: what is to be known of the steps when the call is gone, if they are archived:
                             incarnation, head (the hash of the last), count, ended (whether the run has), archived
                             (how many of them), at (the hash of the last of these)
    flows:{TAG}:events       stream: what happened while turns ran, for who follows them; expires by itself
    flows:{TAG}:followed     string, on a cluster: somebody follows the call, on whichever node; expires by itself

A call whose turn is open has no end, or what a killed process left unanswered would be gone before anybody saw it;
only a first turn that committed nothing, and sent no write, ends by itself. Nor has a call an end whose writes'
outcomes are not known (`effects`). Steps that are not archived yet outlive their call, with `audit`.

Beside the calls, six keys for each tenant, which share a slot:

    flows:index:TENANT                  sorted set: thread → when it was committed last, milliseconds
    flows:{flows:index:TENANT}:open     set: threads that may have an open turn, and then do not expire
    flows:{flows:index:TENANT}:lasting  sorted set: as the first, of calls that are kept for a time of their own
    flows:{flows:index:TENANT}:ends     sorted set: when each of those ends, milliseconds
    flows:{flows:index:TENANT}:effects  sorted set: threads that may have effects → when they were marked last, µs
    flows:{flows:index:TENANT}:trails   sorted set: threads that may have steps to archive → when to look, the same

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
-- KEYS call checkpoints steps writes keys effects audit events followed
-- ARGV token lease_ms opened incarnation first_ttl key version ttl died archives
-- died: the only turn it may take over from. Answers {3} if steps of an earlier call of the name have to be archived.
local had = redis.call('HMGET', KEYS[1], 'lease', 'turn', 'head', 'incarnation', 'push', 'version', 'ttl', 'opened',
  'after', 'base', 'chain')
if had[3] and ARGV[6] ~= '' then
  local answered = redis.call('HGET', KEYS[5], ARGV[6])
  if answered then return {2, had[4], had[5], answered} end
end
if had[1] and tonumber(had[1]) > now and had[2] ~= ARGV[1] then return {0} end
if ARGV[9] ~= '' and had[2] ~= ARGV[9] and had[2] ~= ARGV[1] then return {0} end
if not had[3] and ARGV[10] == '1' then
  local kept = redis.call('HMGET', KEYS[7], 'archived', 'count')
  if tonumber(kept[2] or '0') > tonumber(kept[1] or '0') then return {3} end
end
local incarnation, left = had[4] or ARGV[4], redis.call('PTTL', KEYS[1])
local newest = redis.call('XREVRANGE', KEYS[8], '+', '-', 'COUNT', 1)[1]
local after, watching = newest and newest[1] or '0-0', redis.call('PUBSUB', 'NUMSUB', KEYS[8])[2]
-- A node of a cluster counts only who hears from it.
if watching == 0 then watching = redis.call('EXISTS', KEYS[9]) end
local ttl = ARGV[8] ~= '' and ARGV[8] or had[7]
local fields = {'turn', ARGV[1], 'lease', string.format('%.0f', now + ARGV[2]), 'opened', ARGV[3], 'after', after,
  'base', had[3] or '', 'incarnation', incarnation}
local function set(name, value) fields[#fields + 1], fields[#fields + 2] = name, value end
local died = had[2] and had[2] ~= ARGV[1] and
  {had[2], had[8], had[9] or '', had[10] ~= (had[3] or '') and 1 or 0, had[6] or ''} or false
if not had[3] and ARGV[7] ~= '' then
  had[6] = ARGV[7]
  set('version', ARGV[7])
end
if not had[3] and ARGV[8] ~= '' then set('ttl', ttl) end -- of a call that exists, once something is committed
redis.call('HSET', KEYS[1], unpack(fields))
local effects = redis.call('HGETALL', KEYS[6])
local told = {1, incarnation, had[5], after, watching, had[3], false, {}, had[6], ttl, died, effects, had[11]}
if not had[3] then
  for _, i in ipairs({2, 3, 4, 5, 7}) do redis.call('DEL', KEYS[i]) end -- an evicted call may leave these behind
  local first = ttl and tonumber(ttl) > tonumber(ARGV[5]) and ttl or ARGV[5]
  -- a first turn that crashes leaves nothing, unless it sent a write
  if ARGV[5] ~= '0' and #effects == 0 then redis.call('EXPIRE', KEYS[1], first) end
  return told
end
if left >= 0 then redis.call('HSET', KEYS[1], 'expires', string.format('%.0f', now + left)) end
for _, i in ipairs({1, 2, 3, 4, 5, 7}) do redis.call('PERSIST', KEYS[i]) end
told[7], told[8] = redis.call('HGET', KEYS[2], '|' .. had[3]), redis.call('HGETALL', KEYS[4])
return told
"""
)

COMMIT = """
-- KEYS call checkpoints steps writes keys effects audit events
-- ARGV token parent head blob ttl release trail first key answered version own chain ended longer
-- effects (id effect)... steps...
-- own: a ttl of its own; longer: the seconds that steps wait for the archive when the call is gone, 0 if there is
-- none; effects: how many of them change, to what is not known yet of them or to nothing
-- Answers, if it is refused, {0, what}: 0 if the call has no end for another turn is open, 2 if it is gone, else 1.
local had = redis.call('HMGET', KEYS[1], 'turn', 'head', 'push', 'incarnation')
-- Who is notified may be told the whole run, so its trail is answered too, whether it was asked for or not.
local trail = ARGV[7] == '1' or had[3]
local function committed() return {1, had[3], trail and redis.call('LRANGE', KEYS[3], ARGV[8], -1) or {}} end
if redis.call('HEXISTS', KEYS[2], '|' .. ARGV[3]) == 1 then return committed() end
if had[1] ~= ARGV[1] or (had[2] or '') ~= ARGV[2] then
  return {0, had[1] and had[2] and 0 or (had[1] or had[2]) and 1 or 2}
end
redis.call('HSET', KEYS[2], '|' .. ARGV[3], ARGV[4])
if ARGV[11] == '' then -- a run that has ended is on no version
  redis.call('HSET', KEYS[1], 'head', ARGV[3])
  redis.call('HDEL', KEYS[1], 'expires', 'version')
else
  redis.call('HSET', KEYS[1], 'head', ARGV[3], 'version', ARGV[11])
  redis.call('HDEL', KEYS[1], 'expires')
end
if ARGV[9] ~= '' then redis.call('HSET', KEYS[5], ARGV[9], ARGV[10]) end
if ARGV[12] ~= '' then redis.call('HSET', KEYS[1], 'ttl', ARGV[12]) end
if ARGV[13] ~= '' then redis.call('HSET', KEYS[1], 'chain', ARGV[13]) end
local first = 17 + 2 * ARGV[16]
for i = 17, first - 1, 2 do
  if ARGV[i + 1] == '' then redis.call('HDEL', KEYS[6], ARGV[i])
  else redis.call('HSET', KEYS[6], ARGV[i], ARGV[i + 1]) end
end
for i = first, #ARGV do redis.call('RPUSH', KEYS[3], ARGV[i]) end
local longer = ARGV[13] ~= '' and tonumber(ARGV[15]) or 0
if longer > 0 then
  local kept = redis.call('HMGET', KEYS[7], 'incarnation', 'count')
  if kept[1] and kept[1] ~= had[4] then redis.call('DEL', KEYS[7]) end
  local count = kept[1] == had[4] and kept[2] + #ARGV - first + 1 or redis.call('LLEN', KEYS[3])
  redis.call('HSET', KEYS[7], 'incarnation', had[4], 'head', ARGV[13], 'count', count, 'ended', ARGV[14])
end
if ARGV[6] == '1' then
  redis.call('HDEL', KEYS[1], 'turn', 'lease', 'opened', 'after', 'base')
  if redis.call('EXISTS', KEYS[6]) == 1 then for i = 1, 7 do redis.call('PERSIST', KEYS[i]) end
  elseif ARGV[5] ~= '0' then
    for i = 1, 5 do redis.call('EXPIRE', KEYS[i], ARGV[5] + (i == 3 and longer or 0)) end
    if longer > 0 then redis.call('EXPIRE', KEYS[7], ARGV[5] + longer) end
  end
  -- A turn that nobody follows publishes no events; who watches the call learns that it is over all the same.
  redis.call('PUBLISH', KEYS[8], '')
else
  for _, i in ipairs({1, 2, 3, 4, 5, 7}) do redis.call('PERSIST', KEYS[i]) end
end
return committed()
"""

ABANDON = (
    _CLOCK
    + """
-- KEYS call checkpoints steps writes keys effects audit   ARGV token ttl key answered longer
-- A turn that committed nothing leaves the call the time it had. Where that ran out while a turn was open (this one,
-- or one before it whose process died), the call has its full time again: whoever it concerns must get to see it.
-- Answers 0 if the call has no end for another turn is open, 2 if it is gone, else 1; also to a repeated one.
local had = redis.call('HMGET', KEYS[1], 'turn', 'head', 'expires')
if had[1] ~= ARGV[1] then return had[1] and had[2] and 0 or (had[1] or had[2]) and 1 or 2 end
if not had[2] and redis.call('EXISTS', KEYS[6]) == 0 then
  for i = 1, 5 do redis.call('DEL', KEYS[i]) end -- its events stay: they may tell a follower why there is no call
  return 2
end
if ARGV[3] ~= '' then redis.call('HSET', KEYS[5], ARGV[3], ARGV[4]) end
redis.call('HDEL', KEYS[1], 'turn', 'lease', 'opened', 'after', 'base', 'expires')
if redis.call('EXISTS', KEYS[6]) == 1 then return 1 end -- it has no end before they are settled
for _, i in ipairs({1, 2, 3, 4, 5, 7}) do
  local longer = (i == 3 or i == 7) and ARGV[5] or 0
  if had[3] and tonumber(had[3]) > now then
    redis.call('PEXPIREAT', KEYS[i], string.format('%.0f', had[3] + longer * 1000))
  elseif ARGV[2] ~= '0' then redis.call('EXPIRE', KEYS[i], ARGV[2] + longer) end
end
return 1
"""
)

LET_GO = """
-- KEYS call   ARGV token opened after committed version
-- The turn stays open, and whoever goes on with it need not wait for the lease. What is `opened` is what is gone on
-- with in its place, if that is not empty: the turn it took over from.
local had = redis.call('HMGET', KEYS[1], 'turn', 'head')
if had[1] ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'lease', 0)
if ARGV[2] ~= '' then
  local base = ARGV[4] == '1' and '' or had[2] or ''
  redis.call('HSET', KEYS[1], 'opened', ARGV[2], 'after', ARGV[3], 'base', base)
  if ARGV[5] ~= '' then redis.call('HSET', KEYS[1], 'version', ARGV[5]) end
end
return 1
"""

SEND = (
    _CLOCK
    + """
-- KEYS call effects   ARGV token lease_ms id effect over...   (over: those that it replaces)
-- A write is about to leave: from now on the call has no end before it is known what came of it.
if redis.call('HGET', KEYS[1], 'turn') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[2], ARGV[3], ARGV[4])
for i = 5, #ARGV do redis.call('HDEL', KEYS[2], ARGV[i]) end
redis.call('HSET', KEYS[1], 'lease', string.format('%.0f', now + ARGV[2]))
redis.call('PERSIST', KEYS[1])
redis.call('PERSIST', KEYS[2])
return 1
"""
)

SETTLE = """
-- KEYS call effects   ARGV token (id effect)...   (an effect that is empty is settled)
if redis.call('HGET', KEYS[1], 'turn') ~= ARGV[1] then return 0 end
for i = 2, #ARGV, 2 do
  if ARGV[i + 1] == '' then redis.call('HDEL', KEYS[2], ARGV[i])
  else redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1]) end
end
return 1
"""

MARK_EFFECT = """
-- KEYS effects open   ARGV thread
local t = redis.call('TIME')
local score = string.format('%.0f', t[1] * 1000000 + t[2])
redis.call('ZADD', KEYS[1], score, ARGV[1])
redis.call('SADD', KEYS[2], ARGV[1])
return score
"""

UNMARK_EFFECT = """
-- KEYS effects   ARGV thread score   (not if it has had a new one since)
if redis.call('ZSCORE', KEYS[1], ARGV[1]) == ARGV[2] then return redis.call('ZREM', KEYS[1], ARGV[1]) end
return 0
"""

LIVE = """
-- KEYS checkpoint of a stock saver   ARGV seconds   (0 for ever)
if ARGV[1] == '0' then return redis.call('PERSIST', KEYS[1]) end
return redis.call('EXPIRE', KEYS[1], ARGV[1])
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

RECORD = (
    _CLOCK
    + """
-- KEYS call checkpoints steps writes keys effects   ARGV checkpoint after   (how many steps are left out)
local had = redis.call('HMGET', KEYS[1], 'head', 'incarnation', 'turn', 'lease', 'opened', 'after', 'version', 'base',
  'chain')
if not had[1] and not had[3] and redis.call('EXISTS', KEYS[6]) == 0 then return {} end
local live = had[4] and tonumber(had[4]) > now and 1 or 0
local committed = had[8] ~= (had[1] or '') and 1 or 0
local effects = redis.call('HVALS', KEYS[6])
local told = {had[1], had[2], had[3], live, had[5], had[6], {}, had[7], committed, effects, had[9]}
if had[1] then told[7] = redis.call('LRANGE', KEYS[3], ARGV[2], -1) end
if had[1] and ARGV[1] == '1' then
  told[12], told[13] = redis.call('HGET', KEYS[2], '|' .. had[1]), redis.call('HGETALL', KEYS[4])
end
return told
"""
)

READ = """
-- KEYS call checkpoints steps writes   ARGV namespace checkpoint_id
local head = ARGV[2]
if head == '' then head = redis.call('HGET', KEYS[1], ARGV[1] == '' and 'head' or 'head|' .. ARGV[1]) end
if not head then return {} end
return {head, redis.call('HGET', KEYS[2], ARGV[1] .. '|' .. head), redis.call('HGETALL', KEYS[4])}
"""

CHANGE_PUSH = """
-- KEYS call   ARGV old new   (JSON; empty for none)
local had = redis.call('HMGET', KEYS[1], 'head', 'turn', 'push')
if not had[1] and not had[2] then return -1 end
local now = had[3] or ''
if now == ARGV[2] then return 1 end
if now ~= ARGV[1] then return 0 end
if ARGV[2] == '' then redis.call('HDEL', KEYS[1], 'push') else redis.call('HSET', KEYS[1], 'push', ARGV[2]) end
return 1
"""

PUT = """
-- KEYS call checkpoints steps writes   ARGV namespace checkpoint_id blob ttl
local field = ARGV[1] == '' and 'head' or 'head|' .. ARGV[1]
redis.call('HSET', KEYS[2], ARGV[1] .. '|' .. ARGV[2], ARGV[3])
local head = redis.call('HGET', KEYS[1], field)
if not head or head < ARGV[2] then redis.call('HSET', KEYS[1], field, ARGV[2]) end
if ARGV[4] ~= '0' and redis.call('HEXISTS', KEYS[1], 'turn') == 0 then
  for i = 1, 4 do redis.call('EXPIRE', KEYS[i], ARGV[4]) end
end
return 1
"""

DELETE = (
    _CLOCK
    + """
-- KEYS call checkpoints steps writes keys effects audit events   ARGV token archives
local had = redis.call('HMGET', KEYS[1], 'lease', 'head', 'turn')
if had[1] and tonumber(had[1]) > now and had[3] ~= ARGV[1] then return -1 end
if redis.call('EXISTS', KEYS[6]) == 1 then return -2 end
local kept = redis.call('HMGET', KEYS[7], 'archived', 'count')
if ARGV[2] == '1' and tonumber(kept[2] or '0') > tonumber(kept[1] or '0') then return -3 end
redis.call('DEL', unpack(KEYS))
return had[2] and 1 or 0
"""
)

TOUCH = (
    _CLOCK
    + """
-- KEYS index open lasting ends effects trails   ARGV thread ttl what own resumes settled due
-- what: begun, kept, committed, abandoned; own: the seconds the call is kept, where that is its own; resumes: whether
-- its open turn is gone on with if its process dies; settled: when the last write was marked of those that are known
-- to be settled now; due: in how many milliseconds there may be steps to archive, empty if that is as it was. Answers
-- 1 if the thread is among the open ones only since now.
local score = string.format('%.3f', t[1] * 1000 + t[2] / 1000)
local marked, what, own, place, is_new = 0, ARGV[3], ARGV[4], KEYS[1], 0
if own ~= '' then
  place, is_new = KEYS[3], -redis.call('ZREM', KEYS[1], ARGV[1])
  redis.call('ZADD', KEYS[4], string.format('%.0f', now + (own + 60) * 1000), ARGV[1])
end
if what == 'begun' then
  if own ~= '' or not redis.call('ZSCORE', KEYS[3], ARGV[1]) then
    is_new = is_new + redis.call('ZADD', place, 'NX', score, ARGV[1])
  end
elseif what ~= 'abandoned' then redis.call('ZADD', place, score, ARGV[1]) end
if ARGV[6] ~= '' and redis.call('ZSCORE', KEYS[5], ARGV[1]) == ARGV[6] then redis.call('ZREM', KEYS[5], ARGV[1]) end
if what == 'committed' then redis.call('SREM', KEYS[2], ARGV[1])
elseif what == 'abandoned' then -- a call that was too old to be named, but had no end, has one again
  if redis.call('SREM', KEYS[2], ARGV[1]) == 1 then redis.call('ZADD', place, 'NX', score, ARGV[1]) end
elseif ARGV[5] == '1' or ((own ~= '' or ARGV[2] ~= '0') and is_new < 1) then -- other new calls may expire
  marked = redis.call('SADD', KEYS[2], ARGV[1])
end
-- Who is not named again has expired, a minute for a first turn that lasts included.
if ARGV[2] ~= '0' then
  redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('(%.0f', now - (ARGV[2] + 60) * 1000))
  redis.call('EXPIRE', KEYS[1], ARGV[2] + 60)
end
if own ~= '' then
  for _, thread in ipairs(redis.call('ZRANGEBYSCORE', KEYS[4], '-inf', now, 'LIMIT', 0, 100)) do
    redis.call('ZREM', KEYS[3], thread)
    redis.call('ZREM', KEYS[4], thread)
  end
  for i = 3, 4 do
    if redis.call('PTTL', KEYS[i]) < (own + 60) * 1000 then redis.call('EXPIRE', KEYS[i], own + 60) end
  end
end
if ARGV[7] ~= '' then
  local due = string.format('%.0f', now + ARGV[7])
  if what == 'begun' then redis.call('ZADD', KEYS[6], 'NX', due, ARGV[1])
  else redis.call('ZADD', KEYS[6], due, ARGV[1]) end
  local lasts = ARGV[7] + 8 * 86400000 -- as long as steps wait, and a day
  if redis.call('PTTL', KEYS[6]) < lasts then redis.call('PEXPIRE', KEYS[6], string.format('%.0f', lasts)) end
end
return marked
"""
)

PUBLISH = """
-- KEYS events   ARGV batch most seconds events...
-- The last entry of a batch names it, so that one whose answer was lost is not told twice.
for _, entry in ipairs(redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 2)) do
  if entry[2][3] == 'batch' and entry[2][4] == ARGV[1] then return 0 end
end
for i = 4, #ARGV - 1 do redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[2], '*', 'event', ARGV[i]) end
redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[2], '*', 'event', ARGV[#ARGV], 'batch', ARGV[1])
redis.call('EXPIRE', KEYS[1], ARGV[3])
redis.call('PUBLISH', KEYS[1], '')
return 1
"""

MARK = """
-- KEYS marker   ARGV kind force
local marked = redis.call('GET', KEYS[1])
if marked and marked ~= ARGV[1] and ARGV[2] ~= '1' then return marked end
redis.call('SET', KEYS[1], ARGV[1])
return ARGV[1]
"""
