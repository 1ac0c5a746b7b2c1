-- The list of instances, and the accounts in which each may have open holds.
--
-- KEYS  heartbeat counters, the dead, the instance's accounts
-- ARGV  the operation, the instance, and the operation's arguments:
--   beat              sends a heartbeat; 0 if the instance was declared dead
--   enter, accounts…  registers accounts before opening holds there; 0 if it was declared dead
--   remove, beats     declares it dead if its counter still has that value; '' for any value
--   leave, accounts…  unregisters accounts without open holds
--   forget            removes it from the dead if it has no accounts left

local all_beats, dead, accounts = unpack(KEYS)
local operation, instance, expected_beats = ARGV[1], ARGV[2], ARGV[3]
if operation == 'leave' then
  redis.call('SREM', accounts, unpack(ARGV, 3))
  return 1
elseif operation == 'forget' then
  if redis.call('EXISTS', accounts) == 0 then
    redis.call('SREM', dead, instance)
  end
  return 1
end
local beats = redis.call('HGET', all_beats, instance)
if not beats then
  return 0
elseif operation == 'beat' then
  redis.call('HINCRBY', all_beats, instance, 1)
elseif operation == 'enter' then
  redis.call('SADD', accounts, unpack(ARGV, 3))
elseif operation == 'remove' and (expected_beats == '' or expected_beats == beats) then
  redis.call('HDEL', all_beats, instance)
  redis.call('SADD', dead, instance)
end
return 1
