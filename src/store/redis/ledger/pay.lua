-- Moves money into or out of an account, once for each reference.
--
-- KEYS  books, references, payments
-- ARGV  amount, reference, now
--
-- Answers {'paid' | 'taken' | 'refused', deposited, settled, held, credit line}.

local balance = load(KEYS[1], {})
local function answer(word)
  local words = { word }
  for i, name in ipairs(BALANCE) do
    words[i + 1] = text(balance[name])
  end
  return words
end

local earlier = redis.call('HGET', KEYS[2], ARGV[2])
if earlier then
  return answer(earlier == ARGV[1] and 'paid' or 'taken')
end
local deposited = plus(balance.deposited, amount(ARGV[1]))
if less(deposited, SMALLEST) or less(LARGEST, deposited) then
  return answer('refused')
end
balance.deposited = deposited
redis.call('HSET', KEYS[1], 'deposited', text(deposited))
redis.call('HSET', KEYS[2], ARGV[2], ARGV[1])
local place = string.format('%.0f-0', redis.call('HINCRBY', KEYS[1], 'position', 1))
redis.call('XADD', KEYS[3], place, 'a', ARGV[1], 'r', ARGV[2], 't', ARGV[3])
return answer('paid')
