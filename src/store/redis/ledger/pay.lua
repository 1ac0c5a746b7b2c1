-- Moves money into or out of an account, once per reference. A refund also lowers what budgets have
-- spent.
--
-- KEYS  books, references, payments, what was given back of calls, usage
-- ARGV  amount, reference, what the reference stands for, now, now in seconds, day, month; of the
--       call that is given back, each '' without one: its position, its request's id, what it was
--       charged ('' too if its row is gone), when that was in seconds, its day, its month; then the
--       names of the budgets
--
-- Answers {'paid' | 'taken' | 'refused' | 'unknown' | 'too much', deposited, settled, held, credit
-- line}.

-- What was given back of calls, and is looked at with one refund of a call: more than it adds.
local LOOKED_AT = 8

local books, references, payments, refunds, usage = unpack(KEYS)
local paid, reference, meaning, now = unpack(ARGV, 1, 4)
local second, day, month = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local position, request_id, charged = unpack(ARGV, 8, 10)
local charged_at, call_day, call_month = tonumber(ARGV[11]), tonumber(ARGV[12]), tonumber(ARGV[13])
local ids = { unpack(ARGV, 14) }

local balance, budgets = load(books, ids)
local function answer(word)
  local words = { word }
  for i, name in ipairs(BALANCE) do
    words[i + 1] = text(balance[name])
  end
  return words
end

local earlier = redis.call('HGET', references, reference)
if earlier then
  return answer(earlier == meaning and 'paid' or 'taken')
end
local is_of_call, refunded = position ~= '', nil
if is_of_call then
  -- The row may be gone since it was read, and with it what was given back before.
  local place = position .. '-0'
  if charged == '' or #redis.call('XRANGE', usage, place, place) == 0 then
    return answer('unknown')
  end
  refunded = plus(amount(redis.call('HGET', refunds, position) or '0'), amount(paid))
  if less(amount(charged), refunded) then
    return answer('too much')
  end
end
local deposited = plus(balance.deposited, amount(paid))
if less(deposited, SMALLEST) or less(LARGEST, deposited) then
  return answer('refused')
end

-- Takes charges back: of the slice of the call's own, or of all, oldest first.
local function take_back(rolling)
  local own = is_of_call and math.floor(charged_at / rolling.width)
  local rest, kept, count = amount(paid), 0, #rolling
  for i = 1, count do
    local slice = rolling[i]
    if not own or slice[1] == own then
      local part = least(rest, slice[2])
      slice[2], rest = minus(slice[2], part), minus(rest, part)
      rolling.settled = minus(rolling.settled, part)
    end
    rolling[i] = nil
    if less(ZERO, slice[2]) then
      kept = kept + 1
      rolling[kept] = slice
    end
  end
end

-- Forgets what was given back of calls whose rows are gone. They can't be given back any more.
local function forget_some()
  local oldest = redis.call('XRANGE', usage, '-', '+', 'COUNT', 1)[1]
  local first = oldest and tonumber(string.match(oldest[1], '^%d+'))
  for _, known in ipairs(first and redis.call('HRANDFIELD', refunds, LOOKED_AT) or {}) do
    if tonumber(known) < first then
      redis.call('HDEL', refunds, known)
    end
  end
end

for _, budget in ipairs(budgets) do
  roll(budget, day, month, second)
  local counts = {
    not is_of_call or budget.day == call_day,
    not is_of_call or budget.month == call_month,
    true,
  }
  for i = DAY, TOTAL do
    if counts[i] then
      budget[i].settled = most(bounded(minus(budget[i].settled, amount(paid))), ZERO)
    end
  end
  if budget.rolling then
    take_back(budget.rolling)
  end
end

balance.deposited = deposited
redis.call('HSET', books, 'deposited', text(deposited))
if #ids > 0 then
  save(books, balance, ids, budgets)
end
redis.call('HSET', references, reference, meaning)
local place = string.format('%.0f-0', redis.call('HINCRBY', books, 'position', 1))
if is_of_call then
  redis.call('HSET', refunds, position, text(refunded))
  forget_some()
  redis.call('XADD', payments, place, 'a', paid, 'r', reference, 't', now, 'q', request_id)
else
  redis.call('XADD', payments, place, 'a', paid, 'r', reference, 't', now)
end
return answer('paid')
