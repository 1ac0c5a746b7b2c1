-- Sets the limits of a budget, and answers the budget, and its rolling window or ''.
--
-- KEYS  books ARGV  the budget's name, day, month, now in seconds, the limits of day, month and
-- total, their soft
--       limits ('-' for none), then the rolling window's length in seconds, its limit and its soft
--       limit ('-' for none)

local books = KEYS[1]
local name, day, month, second = unpack(ARGV, 1, 4)
local limits, soft_limits = { unpack(ARGV, 5, 7) }, { unpack(ARGV, 8, 10) }
local rolling_seconds, rolling_limit, rolling_soft = unpack(ARGV, 11, 13)
second = tonumber(second)

local _, budgets = load(books, { name })
local budget = budgets[1]
roll(budget, tonumber(day), tonumber(month), second)
for i = DAY, TOTAL do
  budget[i].limit, budget[i].soft = limits[i], soft_limits[i]
end

-- The same charges in a window of another length: each counts as if it had come at the end of its
-- slice.
local function resliced(known, seconds)
  local width, now = math.ceil(seconds / 60), known and known.latest or second
  local rolling = {
    seconds = seconds,
    width = width,
    latest = now,
    soft = known and known.soft,
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
  if rolling.soft ~= rolling_soft then
    rolling.reported_at = nil
  end
  rolling.limit, rolling.soft = rolling_limit, rolling_soft
elseif rolling then
  rolling.limit, rolling.soft = 'off', '-'
end

local fields = { 'b:' .. name, words_of(budget) }
if rolling then
  fields[3], fields[4] = 'r:' .. name, rolling_words(rolling)
end
redis.call('HSET', books, unpack(fields))
return { fields[2], fields[4] or '' }
