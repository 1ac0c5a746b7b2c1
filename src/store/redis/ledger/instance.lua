-- The list of instances, and the accounts in which each may have open holds.
--
-- KEYS  signs of life, the dead, the instance's accounts
-- ARGV  what, the instance, and what that needs:
--   beat                  lives on; 0: it was taken for dead
--   enter, accounts…      will open holds there; 0: it was taken for dead
--   remove, beats           is dead if it has said no more than that; '' whatever it said
--   leave, accounts…      has no open holds there
--   forget                is dead, and has nothing any more

local what, instance = ARGV[1], ARGV[2]
if what == 'leave' then
  redis.call('SREM', KEYS[3], unpack(ARGV, 3))
  return 1
elseif what == 'forget' then
  if redis.call('EXISTS', KEYS[3]) == 0 then
    redis.call('SREM', KEYS[2], instance)
  end
  return 1
end
local beats = redis.call('HGET', KEYS[1], instance)
if not beats then
  return 0
elseif what == 'beat' then
  redis.call('HINCRBY', KEYS[1], instance, 1)
elseif what == 'enter' then
  redis.call('SADD', KEYS[3], unpack(ARGV, 3))
elseif what == 'remove' and (ARGV[3] == '' or ARGV[3] == beats) then
  redis.call('HDEL', KEYS[1], instance)
  redis.call('SADD', KEYS[2], instance)
end
return 1
