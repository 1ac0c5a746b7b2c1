-- Sets the limits of a budget, and answers the budget, and its window that rolls or ''.
--
-- KEYS  books
-- ARGV  the budget's name, day, month, now in seconds, three limits, three soft ones ('-' for none), then of the window that
--       rolls its seconds, its limit and its soft limit ('-' for none)

local _, budgets = load(KEYS[1], { ARGV[1] })
local budget, second = budgets[1], tonumber(ARGV[4])
roll(budget, tonumber(ARGV[2]), tonumber(ARGV[3]), second)
for i = 1, 3 do
  budget[i].limit, budget[i].soft = ARGV[i + 4], ARGV[i + 7]
end

-- The same charges in a window of another length: each counts as though it had come at the end of its slice.
local function recut(known, seconds)
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
  -- What surely lies within it and no slice tells counts as charged now.
  local sure = ZERO
  if second - budget.month <= seconds then
    sure = budget[2].settled
  elseif second - budget.day <= seconds then
    sure = budget[1].settled
  end
  local missing = minus(sure, rolling.settled)
  if less(ZERO, missing) then
    count_in(rolling, slice_of(rolling), missing)
  end
  return rolling
end

local rolling = budget.rolling
if ARGV[11] ~= '-' then
  local seconds = tonumber(ARGV[11])
  if not rolling or rolling.seconds ~= seconds then
    rolling = recut(rolling, seconds)
  end
  if rolling.soft ~= ARGV[13] then
    rolling.told = nil
  end
  rolling.limit, rolling.soft = ARGV[12], ARGV[13]
elseif rolling then
  rolling.limit, rolling.soft = 'off', '-'
end

local fields = { 'b:' .. ARGV[1], words_of(budget) }
if rolling then
  fields[3], fields[4] = 'r:' .. ARGV[1], rolling_words(rolling)
end
redis.call('HSET', KEYS[1], unpack(fields))
return { fields[2], fields[4] or '' }
