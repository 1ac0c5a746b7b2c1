-- Changes a login unless it was changed by someone else meanwhile.
--
-- KEYS  the login, the user's open logins
-- ARGV  the login as it was, as it should be, its name, then if it stays open: the time to keep it in
--       ms, and its end; if it has ended: '', and the longest time to keep it in ms

local login, open = unpack(KEYS)
local before, after, name, keep_ms, end_or_keep_max = unpack(ARGV)

if redis.call('GET', login) ~= before then
  return 0
end
if keep_ms == '' then
  local keep_max = end_or_keep_max
  local left = redis.call('PTTL', login)
  if left < 1 or left > tonumber(keep_max) then
    left = keep_max
  end
  redis.call('SET', login, after, 'PX', left)
  redis.call('ZREM', open, name)
  return 1
end
redis.call('SET', login, after, 'PX', keep_ms)
redis.call('ZADD', open, end_or_keep_max, name)
if redis.call('PTTL', open) < tonumber(keep_ms) then
  redis.call('PEXPIRE', open, keep_ms)
end
return 1
