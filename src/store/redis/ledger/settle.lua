-- Ends a hold with what the call cost.
--
-- KEYS  books, idempotency keys, the same by end, the instance's open holds, its marks, usage,
-- charges ARGV  number, charged, settlement, now, rows to keep, '1' to give back a hold whose grant
-- was never
--       confirmed, now in seconds
--
-- Answers {'settled', the soft limits passed…}, {'resolved'} if others ended the hold, or {'gone'}.

local books, once, once_ends, open, marks, usage, charges = unpack(KEYS)
local number, charged, settlement, now, rows_max, is_given_up, second = unpack(ARGV)

local keys = {
  books = books,
  once = once,
  once_ends = once_ends,
  open = open,
  usage = usage,
  charges = charges,
}
local answer = { 'settled' }
if finish(keys, number, amount(charged), settlement, now, tonumber(second), rows_max, answer) then
  return answer
end
if is_given_up == '1' then
  -- The call that opens it may still arrive, over a connection that broke.
  redis.call('SADD', marks, number)
  redis.call('EXPIRE', marks, 86400)
elseif redis.call('SISMEMBER', marks, '!' .. number) == 1 then
  return { 'resolved' }
end
return { 'gone' }
