-- Ends a hold with what the call cost.
--
-- KEYS  books, once, once by end, the instance's open holds, its marks, usage, charges
-- ARGV  number, charged, settlement, now, rows to keep, '1' where it is a hold given back whose grant
--       was never heard of, now in seconds
--
-- Answers {'settled', the soft limits passed…}, {'resolved'} where others ended the hold, or {'gone'}.

local keys = {
  books = KEYS[1],
  once = KEYS[2],
  once_ends = KEYS[3],
  open = KEYS[4],
  usage = KEYS[6],
  charges = KEYS[7],
}
local answer = { 'settled' }
if finish(keys, ARGV[1], amount(ARGV[2]), ARGV[3], ARGV[4], tonumber(ARGV[7]), ARGV[5], answer) then
  return answer
end
if ARGV[6] == '1' then
  -- The call that would open it may be on its way yet, on a connection that broke.
  redis.call('SADD', KEYS[5], ARGV[1])
  redis.call('EXPIRE', KEYS[5], 86400)
elseif redis.call('SISMEMBER', KEYS[5], '!' .. ARGV[1]) == 1 then
  return { 'resolved' }
end
return { 'gone' }
