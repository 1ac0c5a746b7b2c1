-- Ends a hold with what the call cost.
--
-- KEYS  as in `finish.lua`
-- ARGV  number, charged, settlement, now, rows to keep, '1' to give back a hold whose grant was never
--       confirmed, now in seconds, now in milliseconds
--
-- Answers {'settled', the soft limits passed…}, {'resolved'} if others ended the hold, or {'gone'}.

local number, charged, settlement, now, rows_max, is_given_up, second, now_ms = unpack(ARGV)
local cost = amount(charged)
second = tonumber(second)

local answer = { 'settled' }
if finish(keys, number, cost, settlement, now, second, rows_max, answer) then
  return answer
end
if is_given_up == '1' then
  -- The call that opens it may still arrive, over a connection that broke.
  redis.call('SADD', marks, number)
  redis.call('EXPIRE', marks, 86400)
  return { 'gone' }
end

-- Others resolved it: what it cost beyond what was charged then is charged, once.
local abandoned = redis.call('HGET', late, number)
abandoned = abandoned and cmsgpack.unpack(abandoned)
if abandoned and second - abandoned[1] <= 86400 then
  local packed, before, freed, freed_ends = unpack(abandoned, 2)
  local record = cmsgpack.unpack(packed)
  local key = record[5]
  local fingerprint, ends, settled = known_of(keys, key)
  local is_known = fingerprint and (settled == '0' or tonumber(ends) > tonumber(now_ms))
  local due = most(bounded(minus(cost, amount(before))), ZERO)
  if is_known and fingerprint == freed then
    -- The client has repeated the call since: with one key it pays once, for the repetition.
    due = ZERO
  end
  due = book(keys, record, ZERO, due, settlement, now, second, rows_max, answer)
  if freed ~= '' and not is_known and text(due) ~= '0' then
    keep(keys, key, freed, freed_ends)
  end
  redis.call('HDEL', late, number)
  redis.call('SREM', marks, '!' .. number)
  return answer
end
if redis.call('SISMEMBER', marks, '!' .. number) == 1 then
  return { 'resolved' }
end
return { 'gone' }
