-- Ends holds that were never settled, each by its own policy.
--
-- KEYS  as in `finish.lua`
-- ARGV  '1' if the instance is dead and may open no more, now, rows to keep, the most holds to end,
--       now in seconds, then the numbers of holds; without any, some of those that are open
--
-- Answers {how many were ended, how many are still open, the soft limits passed…}.

local is_dead, now, rows_max, count_max = unpack(ARGV, 1, 4)
local second = tonumber(ARGV[5])
local numbers = { unpack(ARGV, 6) }

if is_dead == '1' then
  redis.call('SADD', marks, '*')
  redis.call('EXPIRE', marks, 86400)
end
if #numbers == 0 then
  numbers = redis.call('HRANDFIELD', open, count_max) or {}
end
local count, answer = 0, { '0', '0' }
for _, number in ipairs(numbers) do
  local record, charged, fingerprint, ends =
    finish(keys, number, nil, '', now, second, rows_max, answer)
  if record then
    count = count + 1
    -- A late or repeated settlement learns from this mark that it did not end the hold.
    redis.call('SADD', marks, '!' .. number)
    -- Two old ones are checked per new one, so that few are kept for much longer than a day.
    for _, kept in ipairs(redis.call('HRANDFIELD', late, 2)) do
      local at = cmsgpack.unpack(redis.call('HGET', late, kept))[1]
      if second - at > 86400 then
        redis.call('HDEL', late, kept)
      end
    end
    if redis.call('HLEN', late) < 100000 then
      local what = cmsgpack.pack({ second, record, charged, fingerprint, ends })
      redis.call('HSET', late, number, what)
    end
  end
end
if count > 0 then
  redis.call('EXPIRE', marks, 86400)
  redis.call('EXPIRE', late, 86400)
end
answer[1], answer[2] = tostring(count), tostring(redis.call('HLEN', open))
return answer
