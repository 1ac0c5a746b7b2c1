-- Decides about all windows of one key in one step. Nothing is written unless something is taken. Usage
-- follows the rule that it was taken under until something is taken under another.
--
-- KEYS[1]  the key's hash: one field per window, with the window's name
-- ARGV[1]  take | lease | correct | peek
-- ARGV[2]  units; may be negative for correct
-- ARGV[3]  lease: how many units to take if there is plenty. correct: when they were taken, in µs
-- ARGV[4]  correct only: how many units had been given back by then
-- then for each window its name, its rule, and the rule's numbers:
--   gcra      an interval in ticks, the ticks per µs, the burst
--   strict    the limit, the lengths of a slice and of the period in µs
--   calendar  the limit, and the starts of four windows in s: the previous, the current, the next two
--   and for correct, the µs until the window would have been full again, right after the take
--
-- Answers {1 taken | 0 refused | -1 never, units taken, µs to wait, now in µs, units given back so far,
-- then for each window what is left and the µs until it is full}. Every number is an integer below 2^53,
-- which Lua's doubles hold exactly.
--
-- The script blocks the server, so the code that every call runs is written for speed: a rule is built
-- only when a window uses it, a window is one table of its final size, and numbers are converted to text
-- no more often than necessary.

local MOST = 2 ^ 52
-- The fields for the units given back, and for the beginning of the hash: no window can have these names.
local GIVEN, BEGAN = '"', '""'
local floor, ceil, match, format = math.floor, math.ceil, string.match, string.format
-- Formats for whole numbers; the faster one works where a C long has 64 bits.
local ONE, TWO = '%d', '%d %d'
if format(ONE, MOST) ~= '4503599627370496' then
  ONE, TWO = '%.0f', '%.0f %.0f'
end
local operation, cost, extra = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]

local rules, make = {}, {}

-- Returns a function: the µs until at most `most` units of a bucket are in use.
local function draining(t, debt, interval, ticks)
  return function(most)
    local excess = debt - most * interval
    return excess > 0 and ceil(excess / ticks) + (t - now) or 0
  end
end

-- The same for usage that lasts until a fixed time.
local function lasting(used, left)
  return function(most)
    return used > most and left or 0
  end
end

-- Reads what another rule has written: the units in use, with which the new rule starts, and a function
-- for the µs until at most so many are in use. The three formats are distinct: one has four numbers, one
-- has commas.
local function in_use(stored)
  local t, debt, interval, ticks = match(stored, '^(%d+) (%d+) (%d+) (%d+)$')
  if t then
    debt = math.max(0, debt - math.max(0, now - t) * ticks)
    interval = tonumber(interval)
    return ceil(debt / interval), draining(math.max(t, now), debt, interval, tonumber(ticks))
  end
  local start, used, finish = match(stored, '^(%d+) (%d+) (%d+)$')
  if start then
    local left = finish * 1000000 - now
    used = left > 0 and tonumber(used) or 0
    return used, lasting(used, left)
  end
  local newest, counts, length = match(stored, '^(%d+) ([%d,]+) (%d+)$')
  if not newest then
    return 0
  end
  -- All slices that may count are listed: one more than the period has. The period isn't known here.
  local _, commas = string.gsub(counts, ',', ',')
  local slices, sum = {}, 0
  for count in string.gmatch(counts, '%d+') do
    local gone = (newest - #slices + commas + 1) * length - now
    if gone <= 0 then
      break
    end
    slices[#slices + 1] = { gone = gone, count = tonumber(count) }
    sum = sum + count
  end
  return sum, function(most)
    local left = sum
    for i = #slices, 1, -1 do
      if left <= most then
        return i < #slices and slices[i + 1].gone or 0
      end
      left = left - slices[i].count
    end
    return left < sum and slices[1].gone or 0
  end
end

-- "t debt interval ticks": the debt at time t. It shrinks by `ticks` per µs.
function make.gcra()
  return {
    numbers = 3,
    read = function(stored, at)
      local interval, ticks = tonumber(ARGV[at]), tonumber(ARGV[at + 1])
      local burst, rate = tonumber(ARGV[at + 2]), ARGV[at] .. ' ' .. ARGV[at + 1]
      local t, debt, before = now, 0, nil
      local since, owed, old_rate = match(stored or '', '^(%d+) (%d+) (%d+ %d+)$')
      if since then
        local per, old = ticks, interval
        if old_rate ~= rate then
          old, per = match(old_rate, '^(%d+) (%d+)$')
          old, per = tonumber(old), tonumber(per)
        end
        since, debt = tonumber(since), tonumber(owed)
        if now > since then
          debt = debt - (now - since) * per
          if debt < 0 then
            debt = 0
          end
        else
          -- A clock that stepped back gives nothing back.
          t = since
        end
        if old_rate ~= rate then
          before = draining(t, debt, old, per)
        end
        if old ~= interval then
          -- Keeps fractions of a unit: rounded up, the debt would never drain under alternating quotas.
          local units = floor(debt / old)
          local rest = ceil((debt - units * old) * interval / old)
          debt = math.min(MOST, units * interval + rest)
        end
      elseif stored then
        local used
        used, before = in_use(stored)
        debt = math.min(MOST, used * interval)
      end
      return {
        most = burst, interval = interval, ticks = ticks, rate = rate,
        capacity = interval * burst, t = t, debt = debt, left = 0, before = before,
      }
    end,
    left = function(w)
      local left = floor((w.capacity - w.debt) / w.interval)
      return left > 0 and left or 0
    end,
    wait = function(w, units)
      return ceil((w.debt + units * w.interval - w.capacity) / w.ticks) + (w.t - now)
    end,
    reset = function(w)
      return w.debt == 0 and 0 or ceil(w.debt / w.ticks) + (w.t - now)
    end,
    -- A take stands in a queue that drains, and no more can be given back than has not drained of it. Units
    -- given back since may have stood ahead of it.
    add = function(w, units, made)
      local by = units * w.interval
      if by < 0 then
        local left = (made.owed - math.max(0, now - made.at)) * w.ticks - made.ahead * w.interval
        by = -math.min(-by, w.debt, math.max(0, left))
        made.given = math.max(made.given, ceil(-by / w.interval))
      end
      w.debt = math.min(MOST, w.debt + by)
    end,
    write = function(w)
      return format(TWO, w.t, w.debt) .. ' ' .. w.rate
    end,
  }
end

-- "newest n0,n1,… length": what was used in the newest slice and in earlier ones that may still count. Units
-- used in a slice count until a period after the slice's end.
function make.strict()
  local function total(w)
    local sum = 0
    for age = 0, w.oldest do
      sum = sum + w.used[age]
    end
    return sum
  end
  local function gone(w, age)
    return math.max(1, (w.index + 1 - age) * w.length + w.period - now)
  end
  return {
    numbers = 3,
    read = function(stored, at)
      local length = tonumber(ARGV[at + 1])
      local w = { most = tonumber(ARGV[at]), length = length, index = floor(now / length), used = {} }
      w.period = tonumber(ARGV[at + 2])
      w.oldest = ceil(w.period / length)
      for age = 0, w.oldest do
        w.used[age] = 0
      end
      local index, counts, old = match(stored or '', '^(%d+) (%d+,[%d,]+) (%d+)$')
      if not index then
        if stored then
          local used
          used, w.before = in_use(stored)
          w.used[0] = math.min(MOST, used)
        end
        return w
      end
      index, old = tonumber(index), tonumber(old)
      -- Slices of another length count where they end; a clock that stepped back frees nothing.
      local function place(at)
        return old == length and at or floor(((at + 1) * old - 1) / length)
      end
      w.index = math.max(w.index, place(index))
      for count in string.gmatch(counts, '%d+') do
        local at = place(index)
        -- Where the newest slice lies ahead, the oldest that counts has no place of its own.
        local age = math.min(w.index - at, w.oldest)
        if (at + 1) * length + w.period > now then
          w.used[age] = w.used[age] + count
        end
        index = index - 1
      end
      if (w.index + 1 - w.oldest) * length + w.period <= now then
        w.used[w.oldest] = 0
      end
      return w
    end,
    left = function(w)
      return math.max(0, w.most - total(w))
    end,
    wait = function(w, units)
      local sum = total(w)
      for age = w.oldest, 0, -1 do
        sum = sum - w.used[age]
        if sum + units <= w.most then
          return gone(w, age)
        end
      end
      return gone(w, 0)
    end,
    reset = function(w)
      for age = 0, w.oldest do
        if w.used[age] > 0 then
          return gone(w, age)
        end
      end
      return 0
    end,
    add = function(w, units, made)
      -- Units beyond an estimate are used now, and so are units taken at a time that is still ahead.
      local age = made and units < 0 and math.max(0, w.index - floor(made.at / w.length)) or 0
      if w.used[age] then
        w.used[age] = math.max(0, math.min(MOST, w.used[age] + units))
      end
    end,
    write = function(w)
      local counts = {}
      for age = 0, w.oldest do
        counts[age + 1] = format(ONE, w.used[age])
      end
      return format(ONE, w.index) .. ' ' .. table.concat(counts, ',') .. ' ' .. format(ONE, w.length)
    end,
  }
end

-- "start used finish": what was used between start and finish. Windows only move forward. Fields from older
-- versions have no finish: they last as long as this rule says.
function make.calendar()
  return {
    numbers = 5,
    read = function(stored, at)
      local second, begins = floor(now / 1000000), {}
      for n = 1, 4 do
        begins[n] = tonumber(ARGV[at + n])
      end
      local n = second >= begins[3] and 3 or second >= begins[2] and 2 or 1
      local w = { most = tonumber(ARGV[at]), start = begins[n], finish = begins[n + 1], used = 0 }
      -- A caller whose clock is far behind knows no window of this moment.
      local is_behind = not w.finish or w.finish <= second
      if is_behind then
        w.finish = second + 1
      end
      w.ends = w.finish
      local start, used, finish = match(stored or '', '^(%d+) (%d+) ?(%d*)$')
      start = tonumber(start)
      finish = tonumber(finish) or start and start >= w.start and w.finish or 0
      if start and finish > second then
        w.used = tonumber(used)
        if finish ~= w.finish then
          w.before = lasting(w.used, finish * 1000000 - now)
        end
        if start > w.start then
          -- It started later, or the clock stepped back: usage lasts as long as it would have.
          w.start, w.ends = start, math.max(w.ends, finish)
        end
      elseif is_behind and start == w.start then
        w.used = tonumber(used)
      elseif stored and not start then
        local used
        used, w.before = in_use(stored)
        w.used = math.min(MOST, used)
      end
      return w
    end,
    left = function(w)
      return math.max(0, w.most - w.used)
    end,
    wait = function(w)
      return w.finish * 1000000 - now
    end,
    reset = function(w)
      return w.used == 0 and 0 or w.finish * 1000000 - now
    end,
    add = function(w, units, made)
      if not made or w.start * 1000000 <= made.at then
        w.used = math.max(0, math.min(MOST, w.used + units))
      end
    end,
    write = function(w)
      return format(TWO, w.start, w.used) .. ' ' .. format(ONE, w.ends)
    end,
  }
end

local kinds, places, names, owed = {}, {}, {}, {}
local corrects = operation == 'correct'
local at, count = corrects and 5 or 4, 0
while ARGV[at] do
  local name = ARGV[at + 1]
  local rule = rules[name]
  if not rule then
    rule = make[name]()
    rules[name] = rule
  end
  count = count + 1
  kinds[count], places[count], names[count] = rule, at + 2, ARGV[at]
  at = at + 2 + rule.numbers
  if corrects then
    owed[count], at = tonumber(ARGV[at]), at + 1
  end
end

names[count + 1], names[count + 2] = GIVEN, corrects and BEGAN or nil
local stored = redis.call('HMGET', KEYS[1], unpack(names))
local given = tonumber(stored[count + 1]) or 0
local status, taken, wait, least = 1, cost, 0, MOST
local windows = {}
local takes = operation == 'take' or operation == 'lease'
for i = 1, count do
  local rule = kinds[i]
  local w = rule.read(stored[i], places[i])
  local left = rule.left(w)
  windows[i], w.left = w, left
  if left < least then
    least = left
  end
  if takes and left < cost then
    if cost > w.most then
      status = -1
    else
      status = math.min(status, 0)
      wait = math.max(wait, w.before and w.before(w.most - cost) or rule.wait(w, cost))
    end
  end
end

-- A lease is taken if it leaves at least as much again; near the limit every unit is counted individually.
if operation == 'lease' and status == 1 and extra > cost and least >= 2 * extra then
  taken = extra
end
-- A take from before the hash began was forgotten with the previous hash: what is here belongs to others.
-- Hashes from older versions don't say when they began.
local began = corrects and tonumber(stored[count + 2] or 0)
if status ~= 1 or operation == 'peek' or corrects and cost < 0 and extra < began then
  taken = 0
end

local answer = { status, taken, wait, now, given }
local made
if corrects then
  -- A lower count than before: a server that had not received everything has taken over.
  local ahead = given - ARGV[4]
  made = { at = extra, ahead = ahead < 0 and MOST or ahead, given = 0 }
end
local fields, written, lifetime = {}, 0, 0
for i = 1, count do
  local rule, w = kinds[i], windows[i]
  if taken ~= 0 then
    if corrects then
      made.owed = owed[i]
    end
    rule.add(w, taken, made)
    w.left = rule.left(w)
  end
  local reset = taken == 0 and w.before and w.before(0) or rule.reset(w)
  if taken ~= 0 then
    fields[written + 1], fields[written + 2] = names[i], rule.write(w)
    written = written + 2
    if reset > lifetime then
      lifetime = reset
    end
  end
  answer[2 * i + 4], answer[2 * i + 5] = w.left, reset
end
if corrects and made.given > 0 then
  fields[written + 1], fields[written + 2] = GIVEN, format(ONE, given + made.given)
end
if written > 0 then
  redis.call('HSET', KEYS[1], unpack(fields))
  -- A second on top, so that nothing is forgotten before it is idle. The hash may have windows that this
  -- call doesn't name, so its expiry is only extended, never shortened; a new hash has none yet, which is -1.
  lifetime = ceil(lifetime / 1000) + 1000
  local lives = redis.call('PTTL', KEYS[1])
  if lives < 0 then
    redis.call('HSETNX', KEYS[1], BEGAN, format(ONE, now))
  end
  if lives < lifetime then
    redis.call('PEXPIRE', KEYS[1], format(ONE, lifetime))
  end
end
return answer
