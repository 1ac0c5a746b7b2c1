-- Sets money aside in the account and in every budget, or nowhere.
--
-- KEYS  books, once, once by end, the instance's open holds, its marks
-- ARGV  number, amount, day, month, expiry, call, idempotency key or '', fingerprint, now in ms,
--       when the key may be forgotten in ms, now in seconds, then the names of budgets, each once
--
-- Answers {'held', day, month, left of the account, left of the budgets or '-'}, or why not: one word, or {'rolling', after
-- how many seconds enough has left the window or '-'}.

local number, wanted, day, month = ARGV[1], amount(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local key, now, second = ARGV[7], tonumber(ARGV[9]), tonumber(ARGV[11])

-- Whoever was taken for dead opens nothing; nor does a call that was given up before it came here.
local marks = redis.call('SMISMEMBER', KEYS[5], '*', number)
if marks[1] == 1 then
  return { 'fenced' }
elseif marks[2] == 1 then
  return { 'given_up' }
end

-- What was opened, and what can be set aside after that.
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
      leave(limit, budget.rolling.settled, budget[3].held)
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

-- A cluster's client or a proxy may have sent it twice.
local opened = redis.call('HGET', KEYS[4], number)
if opened then
  local record = cmsgpack.unpack(opened)
  day, month = record[2], record[3]
  return answer(load(KEYS[1], record[7]))
end

if key ~= '' then
  local known = redis.call('HGET', KEYS[2], key)
  if known then
    local fingerprint, ends, settled = string.match(known, '^(%x+) (-?%d+) (%d)$')
    if settled == '0' or tonumber(ends) > now then
      if fingerprint ~= ARGV[8] then
        return { 'other_request' }
      end
      return { settled == '1' and 'already_settled' or 'in_progress' }
    end
  end
end

if less(wanted, ZERO) then
  return { 'negative' }
end
local ids = { unpack(ARGV, 12) }
local balance, budgets = load(KEYS[1], ids)
local counted = plus(plus(balance.settled, balance.held), wanted)
if less(available(balance), wanted) or less(LARGEST, counted) then
  return { 'insufficient' }
end
for _, budget in ipairs(budgets) do
  day, month = math.max(day, budget.day), math.max(month, budget.month)
end
-- After what time no more than `room` counts, if nothing more is charged; nothing where it is so now, or never.
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

local REFUSALS = { 'day', 'month', 'total' }
for _, budget in ipairs(budgets) do
  roll(budget, day, month, second)
  for i, window in ipairs(budget) do
    local after = plus(plus(window.settled, window.held), wanted)
    if window.limit ~= '-' and less(amount(window.limit), after) then
      return { REFUSALS[i] }
    end
  end
  local limit, held = limit_of(budget.rolling), budget[3].held
  if limit and less(limit, plus(plus(budget.rolling.settled, held), wanted)) then
    return { 'rolling', wait(budget.rolling, minus(limit, wanted)) }
  end
end

balance.held = bounded(plus(balance.held, wanted))
for _, budget in ipairs(budgets) do
  for _, window in ipairs(budget) do
    window.held = bounded(plus(window.held, wanted))
  end
end
save(KEYS[1], balance, ids, budgets)
local record = cmsgpack.pack({ ARGV[2], day, month, ARGV[5], key, ARGV[6], ids })
redis.call('HSET', KEYS[4], number, record)

if key ~= '' then
  -- A few of those whose time is over go, and the oldest where there are too many.
  local old = redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', ARGV[9], 'LIMIT', 0, 16)
  if redis.call('ZCARD', KEYS[3]) > 100000 then
    old[#old + 1] = redis.call('ZRANGE', KEYS[3], 0, 0)[1]
  end
  old[#old + 1] = key
  redis.call('ZREM', KEYS[3], unpack(old))
  redis.call('HDEL', KEYS[2], unpack(old))
  redis.call('HSET', KEYS[2], key, ARGV[8] .. ' ' .. ARGV[10] .. ' 0')
end
return answer(balance, budgets)
