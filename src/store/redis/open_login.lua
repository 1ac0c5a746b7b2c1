-- Stores a new login, and adds it to its user's open ones. If these exceed the limit, those that expire
-- first are deleted.
--
-- KEYS  the login, the user's open logins
-- ARGV  the login, the time to keep it in ms, its name, its end, the end before which logins are long
--       over, the limit, the prefix of the keys of logins: all of them are in the slot of these two keys

local login, open = unpack(KEYS)
local value, keep_ms, name, login_end, long_over, limit, prefix = unpack(ARGV)

if not redis.call('SET', login, value, 'NX', 'PX', keep_ms) then
  return 0
end
redis.call('ZREMRANGEBYSCORE', open, '-inf', long_over)
redis.call('ZADD', open, login_end, name)
-- At most this many in one step: there may be more from before there was a limit.
local over = math.min(redis.call('ZCARD', open) - tonumber(limit), 1000)
if over > 0 then
  for _, other in ipairs(redis.call('ZRANGE', open, 0, over)) do
    if over > 0 and other ~= name then
      redis.call('DEL', prefix .. other)
      redis.call('ZREM', open, other)
      over = over - 1
    end
  end
end
if redis.call('PTTL', open) < tonumber(keep_ms) then
  redis.call('PEXPIRE', open, keep_ms)
end
return 1
