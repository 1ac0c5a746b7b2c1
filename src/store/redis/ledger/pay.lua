-- Moves money into or out of an account, once per reference.
--
-- KEYS  books, references, payments
-- ARGV  amount, reference, now
--
-- Answers {'paid' | 'taken' | 'refused', deposited, settled, held, credit line}.

local books, references, payments = unpack(KEYS)
local paid, reference, now = unpack(ARGV)

local balance = load(books, {})
local function answer(word)
  local words = { word }
  for i, name in ipairs(BALANCE) do
    words[i + 1] = text(balance[name])
  end
  return words
end

local earlier = redis.call('HGET', references, reference)
if earlier then
  return answer(earlier == paid and 'paid' or 'taken')
end
local deposited = plus(balance.deposited, amount(paid))
if less(deposited, SMALLEST) or less(LARGEST, deposited) then
  return answer('refused')
end
balance.deposited = deposited
redis.call('HSET', books, 'deposited', text(deposited))
redis.call('HSET', references, reference, paid)
local position = string.format('%.0f-0', redis.call('HINCRBY', books, 'position', 1))
redis.call('XADD', payments, position, 'a', paid, 'r', reference, 't', now)
return answer('paid')
