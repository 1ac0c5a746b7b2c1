-- Ends holds that nobody settled, each by its own policy.
--
-- KEYS  books, once, once by end, the instance's open holds, its marks, usage, charges
-- ARGV  '1' where the instance is dead and opens no more, now, rows to keep, how many at most, now in seconds,
--       then the numbers of holds; none: whichever are open
--
-- Answers {how many, how many are still open, the soft limits passed…}.

local keys = {
  books = KEYS[1],
  once = KEYS[2],
  once_ends = KEYS[3],
  open = KEYS[4],
  usage = KEYS[6],
  charges = KEYS[7],
}
if ARGV[1] == '1' then
  redis.call('SADD', KEYS[5], '*')
  redis.call('EXPIRE', KEYS[5], 86400)
end
local numbers = { unpack(ARGV, 6) }
if #numbers == 0 then
  numbers = redis.call('HRANDFIELD', KEYS[4], ARGV[4]) or {}
end
local count, answer = 0, { '0', '0' }
for _, number in ipairs(numbers) do
  if finish(keys, number, nil, '', ARGV[2], tonumber(ARGV[5]), ARGV[3], answer) then
    count = count + 1
    -- A settlement that comes late, or again, is told that it was not the one that ended the hold.
    redis.call('SADD', KEYS[5], '!' .. number)
  end
end
if count > 0 then
  redis.call('EXPIRE', KEYS[5], 86400)
end
answer[1], answer[2] = tostring(count), tostring(redis.call('HLEN', KEYS[4]))
return answer
