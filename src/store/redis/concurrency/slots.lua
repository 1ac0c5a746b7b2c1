-- Counts what is under way of one key.
--
-- KEYS[1]  a sorted set: slots, by when they come free if nobody renews them, in ms of the server's clock
-- ARGV[1]  take | renew | free
-- ARGV[2]  how long a slot lasts, in ms
-- ARGV[3]  take: how many there are
-- ARGV[4]… the slots: one to take, and then those to free before; several to renew or free
--
-- Answers 1, or 0 if all are taken. A refusal only frees. A slot that is taken twice is taken once. One that is
-- renewed is there again whatever became of it: its request is under way.
local operation, lasts = ARGV[1], tonumber(ARGV[2])
if operation == 'free' then
  redis.call('ZREM', KEYS[1], unpack(ARGV, 4))
  return 1
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function whole(number)
  return string.format('%.0f', number)
end
local last = #ARGV
if operation == 'take' then
  if last > 4 then
    redis.call('ZREM', KEYS[1], unpack(ARGV, 5))
    last = 4
  end
  local taken = redis.call('ZCOUNT', KEYS[1], '(' .. whole(now), '+inf')
  if taken >= tonumber(ARGV[3]) and not redis.call('ZSCORE', KEYS[1], ARGV[4]) then
    return 0
  end
end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', whole(now))
for at = 4, last do
  redis.call('ZADD', KEYS[1], whole(now + lasts), ARGV[at])
end
-- Only extended: another process's slots may last longer.
if redis.call('PTTL', KEYS[1]) < lasts then
  redis.call('PEXPIRE', KEYS[1], whole(lasts + 1000))
end
return 1
