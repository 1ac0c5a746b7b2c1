-- Changes a login if nobody else did meanwhile.
-- KEYS: the login, the user's open logins. ARGV: the login as it was, as it is to be, its name, and while it goes on:
-- for how long, and its end; or else an empty text, and for how long at most.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
if ARGV[4] == '' then
  local left = redis.call('PTTL', KEYS[1])
  if left < 1 or left > tonumber(ARGV[5]) then
    left = ARGV[5]
  end
  redis.call('SET', KEYS[1], ARGV[2], 'PX', left)
  redis.call('ZREM', KEYS[2], ARGV[3])
  return 1
end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[4])
redis.call('ZADD', KEYS[2], ARGV[5], ARGV[3])
if redis.call('PTTL', KEYS[2]) < tonumber(ARGV[4]) then
  redis.call('PEXPIRE', KEYS[2], ARGV[4])
end
return 1
