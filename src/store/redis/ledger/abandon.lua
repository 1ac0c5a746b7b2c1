-- Ends holds that were never settled, each by its own policy.
--
-- KEYS  books, idempotency keys, the same by end, the instance's open holds, its marks, usage,
-- charges ARGV  '1' if the instance is dead and may open no more, now, rows to keep, the most holds
-- to end, now
--       in seconds, then the numbers of holds; without any, some of those that are open
--
-- Answers {how many were ended, how many are still open, the soft limits passed…}.

local books, once, once_ends, open, marks, usage, charges = unpack(KEYS)
local is_dead, now, rows_max, count_max, second = unpack(ARGV, 1, 5)
local numbers = { unpack(ARGV, 6) }

local keys = {
  books = books,
  once = once,
  once_ends = once_ends,
  open = open,
  usage = usage,
  charges = charges,
}
if is_dead == '1' then
  redis.call('SADD', marks, '*')
  redis.call('EXPIRE', marks, 86400)
end
if #numbers == 0 then
  numbers = redis.call('HRANDFIELD', open, count_max) or {}
end
local count, answer = 0, { '0', '0' }
for _, number in ipairs(numbers) do
  if finish(keys, number, nil, '', now, tonumber(second), rows_max, answer) then
    count = count + 1
    -- A late or repeated settlement learns from this mark that it did not end the hold.
    redis.call('SADD', marks, '!' .. number)
  end
end
if count > 0 then
  redis.call('EXPIRE', marks, 86400)
end
answer[1], answer[2] = tostring(count), tostring(redis.call('HLEN', open))
return answer
