-- Sets money aside in the account and in every budget, or nowhere.
--
-- KEYS  books, idempotency keys, the same by end, the instance's open holds, its marks
-- ARGV  number, amount, day, month, expiry, call, idempotency key or '', fingerprint, now in ms,
--       when the key may be forgotten in ms, now in seconds, then the names of budgets, each once
--
-- Answers {'held', day, month, left of the account, left of the budgets or '-'}, or why not: one
-- word, {'rolling', seconds until enough has left the window or '-'}, or {'only_held', 'balance' or
-- the window} if it would fit everywhere but for what calls under way hold.

local books, once, once_ends, open, marks = unpack(KEYS)
local number, wanted, day, month, expiry, call, key, fingerprint, now_ms, key_ends_ms, second =
  unpack(ARGV, 1, 11)
local amount_text = wanted
wanted, day, month, second = amount(wanted), tonumber(day), tonumber(month), tonumber(second)
local ids = { unpack(ARGV, 12) }

-- An instance that was declared dead opens nothing; nor does a call that was given up before it
-- came.
local marked = redis.call('SMISMEMBER', marks, '*', number)
if marked[1] == 1 then
  return { 'fenced' }
elseif marked[2] == 1 then
  return { 'given_up' }
end

-- The grant, and what can still be set aside after it.
local function answer(balance, budgets)
  local left
  local function leave(limit, settled, held)
    local rest = bounded(minus(bounded(minus(limit, settled)), held))
    left = left and least(left, rest) or rest
  end
  for _, budget in ipairs(budgets) do
    local limit = limit_of(budget.rolling)
    if limit then
      roll_on(budget.rolling, second)
      leave(limit, budget.rolling.settled, budget[TOTAL].held)
    end
    for _, window in ipairs(budget) do
      if window.limit ~= '-' then
        leave(amount(window.limit), window.settled, window.held)
      end
    end
  end
  return {
    'held',
    string.format('%.0f', day),
    string.format('%.0f', month),
    text(available(balance)),
    left and text(left) or '-',
  }
end

-- A cluster client or a proxy may have sent this call twice.
local opened = redis.call('HGET', open, number)
if opened then
  local record = cmsgpack.unpack(opened)
  day, month = record[2], record[3]
  return answer(load(books, record[7]))
end

if key ~= '' then
  local known = redis.call('HGET', once, key)
  if known then
    local earlier, ends, settled = string.match(known, '^(%x+) (-?%d+) (%d)$')
    if settled == '0' or tonumber(ends) > tonumber(now_ms) then
      if earlier ~= fingerprint then
        return { 'other_request' }
      end
      return { settled == '1' and 'already_settled' or 'in_progress' }
    end
  end
end

if less(wanted, ZERO) then
  return { 'negative' }
end
local balance, budgets = load(books, ids)
local function covers(held)
  local all = {
    deposited = balance.deposited,
    credit_line = balance.credit_line,
    settled = balance.settled,
    held = held,
  }
  local counted = plus(plus(balance.settled, held), wanted)
  return not less(available(all), wanted) and not less(LARGEST, counted)
end
-- What has no room only because of what is held: the balance, or the first window.
local occupied
if not covers(balance.held) then
  if not covers(ZERO) then
    return { 'insufficient' }
  end
  occupied = 'balance'
end
for _, budget in ipairs(budgets) do
  day, month = math.max(day, budget.day), math.max(month, budget.month)
end
-- How long until at most `room` counts, if nothing more is charged; '-' if that is so now, or
-- never.
local function wait(rolling, room)
  local settled = rolling.settled
  if less(room, ZERO) or not less(room, settled) then
    return '-'
  end
  for _, slice in ipairs(rolling) do
    settled = minus(settled, slice[2])
    if not less(room, settled) then
      return string.format('%.0f', end_of(rolling, slice) - second)
    end
  end
  return '-'
end

-- The first window without room for what is wanted, with what is held or by what is charged alone.
local function lacking(budget, counts_held)
  for i, window in ipairs(budget) do
    local spent = counts_held and plus(window.settled, window.held) or window.settled
    if window.limit ~= '-' and less(amount(window.limit), plus(spent, wanted)) then
      return i
    end
  end
  local limit = limit_of(budget.rolling)
  if limit then
    local spent = budget.rolling.settled
    if counts_held then
      spent = plus(spent, budget[TOTAL].held)
    end
    if less(limit, plus(spent, wanted)) then
      return ROLLING
    end
  end
end

local REFUSALS = { [DAY] = 'day', [MONTH] = 'month', [TOTAL] = 'total', [ROLLING] = 'rolling' }
for _, budget in ipairs(budgets) do
  roll(budget, day, month, second)
  local lacks = lacking(budget, true)
  if lacks then
    local gone = lacking(budget, false)
    if gone == ROLLING then
      return { 'rolling', wait(budget.rolling, minus(limit_of(budget.rolling), wanted)) }
    elseif gone then
      return { REFUSALS[gone] }
    end
    occupied = occupied or REFUSALS[lacks]
  end
end
if occupied then
  return { 'only_held', occupied }
end

balance.held = bounded(plus(balance.held, wanted))
for _, budget in ipairs(budgets) do
  for _, window in ipairs(budget) do
    window.held = bounded(plus(window.held, wanted))
  end
end
save(books, balance, ids, budgets)
local record = cmsgpack.pack({ amount_text, day, month, expiry, key, call, ids })
redis.call('HSET', open, number, record)

if key ~= '' then
  -- Forget a few expired keys, and the oldest one if there are too many.
  local old = redis.call('ZRANGEBYSCORE', once_ends, '-inf', now_ms, 'LIMIT', 0, 16)
  if redis.call('ZCARD', once_ends) > 100000 then
    old[#old + 1] = redis.call('ZRANGE', once_ends, 0, 0)[1]
  end
  old[#old + 1] = key
  redis.call('ZREM', once_ends, unpack(old))
  redis.call('HDEL', once, unpack(old))
  redis.call('HSET', once, key, fingerprint .. ' ' .. key_ends_ms .. ' 0')
end
return answer(balance, budgets)
