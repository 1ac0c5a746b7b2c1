-- Money, balances and budgets: the common beginning of the ledger's scripts. The rules are those of
-- the domain's books; a test compares the two, call by call.
--
-- Lua has only doubles. An amount in nano-dollars is therefore a pair of them, whole dollars
-- (rounded down) and the fraction of a dollar, both far below 2^53: sums and comparisons are exact
-- over all of an i64.

local BASE = 1000000000
local ZERO = { 0, 0 }
local LARGEST, SMALLEST = { 9223372036, 854775807 }, { -9223372037, 145224192 }

local function amount(text)
  local sign, digits = string.match(text, '^(-?)(%d+)$')
  local whole = tonumber(string.sub(digits, 1, -10)) or 0
  local part = tonumber(string.sub(digits, -9))
  if sign == '-' then
    whole, part = -whole, -part
    if part < 0 then
      whole, part = whole - 1, part + BASE
    end
  end
  return { whole, part }
end

local function text(a)
  local sign, whole, part = '', a[1], a[2]
  if whole < 0 then
    sign, whole, part = '-', -whole, -part
    if part < 0 then
      whole, part = whole - 1, part + BASE
    end
  end
  if whole == 0 then
    return sign .. string.format('%.0f', part)
  end
  return sign .. string.format('%.0f%09.0f', whole, part)
end

local function plus(a, b)
  local whole, part = a[1] + b[1], a[2] + b[2]
  if part >= BASE then
    whole, part = whole + 1, part - BASE
  end
  return { whole, part }
end

local function minus(a, b)
  local whole, part = a[1] - b[1], a[2] - b[2]
  if part < 0 then
    whole, part = whole - 1, part + BASE
  end
  return { whole, part }
end

local function less(a, b)
  return a[1] < b[1] or (a[1] == b[1] and a[2] < b[2])
end

local function least(a, b)
  return less(b, a) and b or a
end

local function most(a, b)
  return less(a, b) and b or a
end

-- The nearest amount that an i64 can hold.
local function bounded(a)
  return least(most(a, SMALLEST), LARGEST)
end

local BALANCE = { 'deposited', 'settled', 'held', 'credit_line' }

local function balance_of(found)
  local balance = {}
  for i, name in ipairs(BALANCE) do
    balance[name] = amount(found[i] or '0')
  end
  return balance
end

local function available(balance)
  local all = plus(balance.deposited, balance.credit_line)
  return bounded(minus(minus(all, balance.settled), balance.held))
end

-- The windows of a budget, by index; alerts use the same numbers. The rolling window is optional
-- and kept as `budget.rolling`.
local DAY, MONTH, TOTAL, ROLLING = 1, 2, 3, 4

-- A budget is one field of 14 words: the limits of day, month and total, the smallest of their soft
-- limits ("-" for none), the first seconds of its day and its month, then what is settled and held in
-- each of day, month and total.
local DAY_WORD, MONTH_WORD = 7, 8
local NEW = '- - - - - - 0 0 0 0 0 0 0 0'

local function budget_of(stored)
  local words = {}
  for word in string.gmatch(stored or NEW, '%S+') do
    words[#words + 1] = word
  end
  local budget = { day = tonumber(words[DAY_WORD]), month = tonumber(words[MONTH_WORD]) }
  for i = DAY, TOTAL do
    budget[i] = {
      limit = words[i],
      soft = words[i + 3],
      settled = amount(words[2 * i + 7]),
      held = amount(words[2 * i + 8]),
    }
  end
  return budget
end

-- The rolling window is a field of its own: its length in seconds, its limit ("off" if it no longer
-- has one) and smallest soft limit, the latest second at which it was evaluated, the second at which
-- that soft limit was last reported, then for each slice its number and what was charged in it,
-- oldest first.
local function rolling_of(stored)
  if not stored then
    return nil
  end
  local words = {}
  for word in string.gmatch(stored, '%S+') do
    words[#words + 1] = word
  end
  local rolling = {
    seconds = tonumber(words[1]),
    limit = words[2],
    soft = words[3],
    latest = tonumber(words[4]),
    reported_at = tonumber(words[5]),
    settled = ZERO,
  }
  rolling.width = math.ceil(rolling.seconds / 60)
  for i = 6, #words, 2 do
    local slice = { tonumber(words[i]), amount(words[i + 1]) }
    rolling[#rolling + 1] = slice
    rolling.settled = plus(rolling.settled, slice[2])
  end
  return rolling
end

local function rolling_words(rolling)
  local words = {
    string.format('%.0f', rolling.seconds),
    rolling.limit,
    rolling.soft,
    string.format('%.0f', rolling.latest),
    rolling.reported_at and string.format('%.0f', rolling.reported_at) or '-',
  }
  for _, slice in ipairs(rolling) do
    words[#words + 1] = string.format('%.0f', slice[1])
    words[#words + 1] = text(slice[2])
  end
  return table.concat(words, ' ')
end

-- The slice in which charges count now.
local function slice_of(rolling)
  return math.floor(rolling.latest / rolling.width)
end

-- The second at which a slice has left the window.
local function end_of(rolling, slice)
  return (slice[1] + 1) * rolling.width + rolling.seconds
end

-- Drops what has left the window. Time never goes back.
local function roll_on(rolling, second)
  rolling.latest = math.max(second, rolling.latest)
  local gone = 0
  while rolling[gone + 1] and end_of(rolling, rolling[gone + 1]) <= rolling.latest do
    gone = gone + 1
    rolling.settled = minus(rolling.settled, rolling[gone][2])
  end
  if gone > 0 then
    for i = 1, #rolling do
      rolling[i] = rolling[i + gone]
    end
  end
end

-- Counts a charge in a slice, which must not be earlier than the others.
local function count_in(rolling, number, charged)
  if charged[1] == 0 and charged[2] == 0 then
    return
  end
  rolling.settled = plus(rolling.settled, charged)
  local last = rolling[#rolling]
  if last and last[1] >= number then
    last[2] = plus(last[2], charged)
  else
    rolling[#rolling + 1] = { number, charged }
  end
end

local function limit_of(rolling)
  if rolling and rolling.limit ~= '-' and rolling.limit ~= 'off' then
    return amount(rolling.limit)
  end
end

local function words_of(budget)
  local words = {}
  for i = DAY, TOTAL do
    local window = budget[i]
    words[i], words[i + 3] = window.limit, window.soft
    words[2 * i + 7], words[2 * i + 8] = text(window.settled), text(window.held)
  end
  words[DAY_WORD] = string.format('%.0f', budget.day)
  words[MONTH_WORD] = string.format('%.0f', budget.month)
  return table.concat(words, ' ')
end

-- Starts new windows where a new day or month has begun. Never goes back.
local function roll(budget, day, month, second)
  if day > budget.day then
    budget.day, budget[DAY].settled, budget[DAY].held = day, ZERO, ZERO
  end
  if month > budget.month then
    budget.month, budget[MONTH].settled, budget[MONTH].held = month, ZERO, ZERO
  end
  if budget.rolling then
    roll_on(budget.rolling, second)
  end
end

-- The balance, and the budgets with these names, in one read.
local function load(books, ids)
  local fields = { unpack(BALANCE) }
  for _, id in ipairs(ids) do
    fields[#fields + 1] = 'b:' .. id
  end
  for _, id in ipairs(ids) do
    fields[#fields + 1] = 'r:' .. id
  end
  local found = redis.call('HMGET', books, unpack(fields))
  local budgets = {}
  for i in ipairs(ids) do
    budgets[i] = budget_of(found[i + 4])
    budgets[i].rolling = rolling_of(found[i + 4 + #ids])
  end
  return balance_of(found), budgets
end

local function save(books, balance, ids, budgets)
  local fields = { 'settled', text(balance.settled), 'held', text(balance.held) }
  for i, id in ipairs(ids) do
    fields[#fields + 1], fields[#fields + 2] = 'b:' .. id, words_of(budgets[i])
    if budgets[i].rolling then
      fields[#fields + 1], fields[#fields + 2] = 'r:' .. id, rolling_words(budgets[i].rolling)
    end
  end
  redis.call('HSET', books, unpack(fields))
end
