-- One decision about all windows of one key, in one step. Nothing is written unless something is taken.
--
-- KEYS[1]  the key's hash: a field for each window, called like the window
-- ARGV[1]  take | lease | correct | peek
-- ARGV[2]  units; to correct, they may be below zero
-- ARGV[3]  lease: how many units to take where there is plenty. correct: when they were taken, in µs
-- then seven for each window: its name, its rule, and five numbers:
--   gcra      an interval in ticks, ticks in a µs, the burst
--   strict    the limit, the length of a slice in µs
--   calendar  the limit, and four beginnings of windows in s: the last one's, this one's, the next ones'
--
-- Answers {1 taken | 0 refused | -1 never, units taken, µs to wait, now in µs, then for each window
-- what is left and the µs until all of it is}. Every number is an integer below 2^53, so that Lua's
-- doubles hold it exactly.

local SLICES, MOST = 16, 2 ^ 52
local operation, cost, extra = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]

local function text(number)
  return string.format('%.0f', number)
end

local rules, make = {}, {}

-- "t debt interval ticks": what is owed at t. It shrinks by so many ticks in a µs.
function make.gcra()
  return {
    read = function(w, stored)
      local interval, ticks, burst = w[1], w[2], w[3]
      w.most, w.capacity, w.t, w.debt = burst, interval * burst, now, 0
      local t, debt, old, per = string.match(stored or '', '^(%d+) (%d+) (%d+) (%d+)$')
      if t then
        t, debt, old, per = tonumber(t), tonumber(debt), tonumber(old), tonumber(per)
        if now > t then
          debt = math.max(0, debt - (now - t) * per)
        end
        if old ~= interval then
          debt = math.min(MOST, math.ceil(debt / old) * interval)
        end
        -- A clock that stepped back gives nothing back.
        w.t, w.debt = math.max(t, now), debt
      end
    end,
    left = function(w)
      return math.max(0, math.floor((w.capacity - w.debt) / w[1]))
    end,
    wait = function(w, units)
      return math.ceil((w.debt + units * w[1] - w.capacity) / w[2]) + (w.t - now)
    end,
    reset = function(w)
      return w.debt == 0 and 0 or math.ceil(w.debt / w[2]) + (w.t - now)
    end,
    add = function(w, units)
      w.debt = math.max(0, math.min(MOST, w.debt + units * w[1]))
    end,
    write = function(w)
      return text(w.t) .. ' ' .. text(w.debt) .. ' ' .. text(w[1]) .. ' ' .. text(w[2])
    end,
  }
end

-- "newest n0,n1,…,n16 length": what was used in the newest slice and in the sixteen before it.
function make.strict()
  local function total(w)
    local sum = 0
    for age = 0, SLICES do
      sum = sum + w.used[age]
    end
    return sum
  end
  local function gone(w, age)
    return math.max(1, (w.index + SLICES + 1 - age) * w[2] - now)
  end
  return {
    read = function(w, stored)
      local length = w[2]
      w.most, w.index, w.used = w[1], math.floor(now / length), {}
      for age = 0, SLICES do
        w.used[age] = 0
      end
      local index, counts, old = string.match(stored or '', '^(%d+) ([%d,]+) (%d+)$')
      if not index then
        return
      end
      index, old = tonumber(index), tonumber(old)
      -- Slices of another length count where they end; a clock that stepped back frees nothing.
      local function place(at)
        return old == length and at or math.floor(((at + 1) * old - 1) / length)
      end
      w.index = math.max(w.index, place(index))
      for count in string.gmatch(counts, '%d+') do
        local age = w.index - place(index)
        if w.used[age] then
          w.used[age] = w.used[age] + count
        end
        index = index - 1
      end
    end,
    left = function(w)
      return math.max(0, w[1] - total(w))
    end,
    wait = function(w, units)
      local sum = total(w)
      for age = SLICES, 0, -1 do
        sum = sum - w.used[age]
        if sum + units <= w[1] then
          return gone(w, age)
        end
      end
      return gone(w, 0)
    end,
    reset = function(w)
      for age = 0, SLICES do
        if w.used[age] > 0 then
          return gone(w, age)
        end
      end
      return 0
    end,
    add = function(w, units, at)
      local age = at and w.index - math.floor(at / w[2]) or 0
      if w.used[age] then
        w.used[age] = math.max(0, math.min(MOST, w.used[age] + units))
      end
    end,
    write = function(w)
      local counts = {}
      for age = 0, SLICES do
        counts[age + 1] = text(w.used[age])
      end
      return text(w.index) .. ' ' .. table.concat(counts, ',') .. ' ' .. text(w[2])
    end,
  }
end

-- "start used": what was used since then. Windows only move forward.
function make.calendar()
  return {
    read = function(w, stored)
      local second = math.floor(now / 1000000)
      local at = second >= w[4] and 4 or second >= w[3] and 3 or 2
      w.most, w.start, w.finish, w.used = w[1], w[at], w[at + 1], 0
      if not w.finish or w.finish <= second then
        w.finish = second + 1
      end
      local start, used = string.match(stored or '', '^(%d+) (%d+)$')
      if start and tonumber(start) >= w.start then
        w.start, w.used = tonumber(start), tonumber(used)
      end
    end,
    left = function(w)
      return math.max(0, w[1] - w.used)
    end,
    wait = function(w)
      return w.finish * 1000000 - now
    end,
    reset = function(w)
      return w.used == 0 and 0 or w.finish * 1000000 - now
    end,
    add = function(w, units, at)
      if not at or w.start * 1000000 <= at then
        w.used = math.max(0, math.min(MOST, w.used + units))
      end
    end,
    write = function(w)
      return text(w.start) .. ' ' .. text(w.used)
    end,
  }
end

local windows, names = {}, {}
for i = 4, #ARGV, 7 do
  local name = ARGV[i + 1]
  rules[name] = rules[name] or make[name]()
  local w = { rule = rules[name] }
  for n = 1, 5 do
    w[n] = tonumber(ARGV[i + 1 + n])
  end
  windows[#windows + 1], names[#names + 1] = w, ARGV[i]
end

local stored = redis.call('HMGET', KEYS[1], unpack(names))
local status, taken, wait, least = 1, cost, 0, MOST
for i, w in ipairs(windows) do
  w.rule.read(w, stored[i])
  least = math.min(least, w.rule.left(w))
  if operation == 'take' or operation == 'lease' then
    if cost > w.most then
      status = -1
    elseif w.rule.left(w) < cost then
      status = math.min(status, 0)
      wait = math.max(wait, w.rule.wait(w, cost))
    end
  end
end

-- A lease is taken where it leaves as much again; near the limit every unit is counted by itself.
if operation == 'lease' and status == 1 and extra > cost and least >= 2 * extra then
  taken = extra
end
if status ~= 1 or operation == 'peek' then
  taken = 0
end

if taken ~= 0 then
  local at = operation == 'correct' and extra or nil
  local fields, lifetime = {}, 0
  for i, w in ipairs(windows) do
    w.rule.add(w, taken, at)
    fields[#fields + 1], fields[#fields + 2] = names[i], w.rule.write(w)
    lifetime = math.max(lifetime, w.rule.reset(w))
  end
  redis.call('HSET', KEYS[1], unpack(fields))
  -- A second on top, so that nothing is forgotten before it is idle.
  redis.call('PEXPIRE', KEYS[1], text(math.ceil(lifetime / 1000) + 1000))
end

local answer = { status, taken, wait, now }
for _, w in ipairs(windows) do
  answer[#answer + 1] = w.rule.left(w)
  answer[#answer + 1] = w.rule.reset(w)
end
return answer
