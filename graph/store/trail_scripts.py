"""What happens atomically to audit trails on their way to the archive, as Lua over core commands (`scripts` names the
keys)."""

TRAIL = """
-- KEYS call checkpoints steps writes keys effects audit   ARGV steps bytes   (at most so many, in this piece)
local kept = redis.call('HMGET', KEYS[7], 'incarnation', 'head', 'count', 'ended', 'archived', 'at')
if not kept[1] then return {} end
local had = redis.call('HMGET', KEYS[1], 'head', 'incarnation')
local lives = had[1] and had[2] == kept[1] and 1 or 0
local place, all = tonumber(kept[5] or '0'), redis.call('LLEN', KEYS[3])
local steps, bytes = {}, 0
while place < all and #steps < tonumber(ARGV[1]) and bytes < tonumber(ARGV[2]) do
  for _, step in ipairs(redis.call('LRANGE', KEYS[3], place, place + 9)) do
    steps[#steps + 1], bytes, place = step, bytes + #step, place + 1
  end
end
local left, last = redis.call('PTTL', KEYS[1]), place >= all and 1 or 0
return {kept[1], kept[2], kept[3], kept[4], kept[5], kept[6], lives, left, last, steps}
"""

ARCHIVED = """
-- KEYS call checkpoints steps writes keys effects audit   ARGV incarnation after upto head
-- The steps after one are archived up to another. A trail of which nothing is left to archive goes with its call.
local kept = redis.call('HMGET', KEYS[7], 'incarnation', 'archived', 'count')
if kept[1] ~= ARGV[1] or (kept[2] or '0') ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[7], 'archived', ARGV[3], 'at', ARGV[4])
if tonumber(ARGV[3]) < tonumber(kept[3] or '0') then return 1 end
local had = redis.call('HMGET', KEYS[1], 'head', 'incarnation')
if not had[1] or had[2] ~= ARGV[1] then
  redis.call('DEL', KEYS[7])
  if not had[1] then redis.call('DEL', KEYS[3]) end
  return 1
end
local left = redis.call('PTTL', KEYS[1])
if left >= 0 then
  for _, key in ipairs({KEYS[3], KEYS[7]}) do redis.call('PEXPIRE', key, left + 60000) end
end
return 1
"""

CLAIM = """
-- KEYS trails   ARGV most milliseconds   (for which nobody else gets them)
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[1])
local score = string.format('%.0f', now + ARGV[2])
for _, thread in ipairs(due) do redis.call('ZADD', KEYS[1], score, thread) end
return {score, due}
"""

RETURN = """
-- KEYS trails   ARGV score (thread milliseconds)...   (when it is due again; empty for never)
-- What was due anew in the meantime stays so.
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
for i = 2, #ARGV, 2 do
  if redis.call('ZSCORE', KEYS[1], ARGV[i]) == ARGV[1] then
    if ARGV[i + 1] == '' then redis.call('ZREM', KEYS[1], ARGV[i])
    else redis.call('ZADD', KEYS[1], string.format('%.0f', now + ARGV[i + 1]), ARGV[i]) end
  end
end
return 1
"""
