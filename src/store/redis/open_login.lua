-- Stores a login that isn't there yet, and names it among its user's open ones. Of these no more are kept than there may be: those
-- that end first are forgotten.
-- KEYS: the login, the user's open logins. ARGV: the login, for how long, its name, its end, what ended long ago, how many
-- there may be, and what the keys of logins begin with: they are all in the slot of these two.
if not redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then
  return 0
end
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', ARGV[5])
redis.call('ZADD', KEYS[2], ARGV[4], ARGV[3])
-- So many in one step: there may be more from before there was a bound.
local over = math.min(redis.call('ZCARD', KEYS[2]) - tonumber(ARGV[6]), 1000)
if over > 0 then
  for _, name in ipairs(redis.call('ZRANGE', KEYS[2], 0, over)) do
    if over > 0 and name ~= ARGV[3] then
      redis.call('DEL', ARGV[7] .. name)
      redis.call('ZREM', KEYS[2], name)
      over = over - 1
    end
  end
end
if redis.call('PTTL', KEYS[2]) < tonumber(ARGV[2]) then
  redis.call('PEXPIRE', KEYS[2], ARGV[2])
end
return 1
