-- Sets the limits of a budget, and answers the budget, its rolling window or '', and its soft limits
-- where a window has several, or ''.
--
-- KEYS  books
-- ARGV  the budget's name, day, month, now in seconds, the limits of day, month and total, their soft
--       limits, then the rolling window's length in seconds, its limit and its soft limits. '-' stands
--       for none; the soft limits of a window are separated by commas, smallest first

local books = KEYS[1]
local name, day, month, second = unpack(ARGV, 1, 4)
local limits, soft = { unpack(ARGV, 5, 7) }, { unpack(ARGV, 8, 10) }
local rolling_seconds, rolling_limit, rolling_soft = unpack(ARGV, 11, 13)
second = tonumber(second)

local _, budgets = load(books, { name })
local budget = budgets[1]
roll(budget, tonumber(day), tonumber(month), second)
local words_before, words = soft_words(books, name), {}
for i = DAY, TOTAL do
  budget[i].limit, budget[i].soft = limits[i], string.match(soft[i], '^[^,]+')
  words[i] = soft_word(soft_limits(budget[i].soft, nil, soft[i]))
end
words[ROLLING] = '-'

-- The same charges in a window of another length: each counts as if it had come at the end of its
-- slice.
local function resliced(known, seconds)
  local width, now = math.ceil(seconds / 60), known and known.latest or second
  local rolling = {
    seconds = seconds,
    width = width,
    latest = now,
    soft = '-',
    settled = ZERO,
  }
  for _, slice in ipairs(known or {}) do
    local last = math.min((slice[1] + 1) * known.width - 1, now)
    count_in(rolling, math.floor(last / width), slice[2])
  end
  roll_on(rolling, now)
  -- Charges that are certainly within the window but in no slice count as charged now.
  local sure = ZERO
  if second - budget.month <= seconds then
    sure = budget[MONTH].settled
  elseif second - budget.day <= seconds then
    sure = budget[DAY].settled
  end
  local missing = minus(sure, rolling.settled)
  if less(ZERO, missing) then
    count_in(rolling, slice_of(rolling), missing)
  end
  return rolling
end

local rolling = budget.rolling
if rolling_seconds ~= '-' then
  local seconds = tonumber(rolling_seconds)
  if not rolling or rolling.seconds ~= seconds then
    rolling = resliced(rolling, seconds)
  end
  local reported = {}
  for _, known in ipairs(soft_limits(rolling.soft, rolling.reported_at, words_before[ROLLING])) do
    reported[known.limit] = known.reported_at
  end
  local all = soft_limits(string.match(rolling_soft, '^[^,]+'), nil, rolling_soft)
  for _, known in ipairs(all) do
    known.reported_at = reported[known.limit]
  end
  rolling.limit, rolling.soft = rolling_limit, all[1].limit
  rolling.reported_at, words[ROLLING] = all[1].reported_at, soft_word(all)
elseif rolling then
  rolling.limit, rolling.soft, rolling.reported_at = 'off', '-', nil
end

local budget_words, several = words_of(budget), table.concat(words, ' ')
local window_words = rolling and rolling_words(rolling) or ''
redis.call('HSET', books, 'b:' .. name, budget_words)
if rolling then
  redis.call('HSET', books, 'r:' .. name, window_words)
end
if string.find(several, ',', 1, true) then
  redis.call('HSET', books, 's:' .. name, several)
else
  several = ''
  redis.call('HDEL', books, 's:' .. name)
end
return { budget_words, window_words, several }
