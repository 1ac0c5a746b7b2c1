-- The soft limits that the spending of a window, by its number, has reached since it was `before`:
-- those, and all that the window has. They are looked up only once the smallest is reached.
local function crossed(books, name, budget, number, window, before)
  if less(window.settled, amount(window.soft)) then
    return {}
  end
  budget.soft_words = budget.soft_words or soft_words(books, name)
  local all = soft_limits(window.soft, window.reported_at, budget.soft_words[number])
  local passed = {}
  for _, soft in ipairs(all) do
    local limit = amount(soft.limit)
    if less(before, limit) and not less(window.settled, limit) then
      passed[#passed + 1] = soft
    end
  end
  return passed, all
end

-- Charges a call and writes its rows. `keys` has books, once (idempotency keys), once_ends (the same
-- by end), open, usage and charges; `record` is the hold's. `held` is given back. Appends the soft
-- limits that were passed to `passed`, four words each: budget, window, soft limit, settled. Returns
-- what was charged.
local function book(keys, record, held, charged, settlement, now, second, rows_max, passed)
  local day, month, call, ids = record[2], record[3], record[6], record[7]
  local balance, budgets = load(keys.books, ids)
  local room = bounded(minus(LARGEST, balance.settled))
  charged = least(most(charged, ZERO), room)
  balance.held = bounded(minus(balance.held, held))
  balance.settled = bounded(plus(balance.settled, charged))

  local function report(n, window, soft, settled)
    local words = { ids[n], tostring(window), soft, text(settled) }
    for _, word in ipairs(words) do
      passed[#passed + 1] = word
    end
  end

  -- Whether the hold was taken in the budget's current day and month; the total has no end.
  local is_current = { false, false, true }
  for n, budget in ipairs(budgets) do
    is_current[DAY], is_current[MONTH] = budget.day == day, budget.month == month
    for i, window in ipairs(budget) do
      if is_current[i] then
        local before = window.settled
        window.held = bounded(minus(window.held, held))
        window.settled = bounded(plus(before, charged))
        if window.soft ~= '-' then
          for _, soft in ipairs(crossed(keys.books, ids[n], budget, i, window, before)) do
            report(n, i, soft.limit, window.settled)
          end
        end
      end
    end
    local rolling = budget.rolling
    if rolling then
      roll_on(rolling, second)
      local before, at = rolling.settled, rolling.latest
      count_in(rolling, slice_of(rolling), charged)
      if rolling.soft ~= '-' then
        local passed_here, all = crossed(keys.books, ids[n], budget, ROLLING, rolling, before)
        local is_reported = false
        for _, soft in ipairs(passed_here) do
          if not soft.reported_at or at >= soft.reported_at + rolling.seconds then
            soft.reported_at, is_reported = at, true
            report(n, ROLLING, soft.limit, rolling.settled)
          end
        end
        if is_reported then
          rolling.reported_at = all[1].reported_at
        end
        if is_reported and all[2] then
          budget.soft_words[ROLLING] = soft_word(all)
          redis.call('HSET', keys.books, 's:' .. ids[n], table.concat(budget.soft_words, ' '))
        end
      end
    end
  end

  save(keys.books, balance, ids, budgets)
  local position = string.format('%.0f-0', redis.call('HINCRBY', keys.books, 'position', 1))
  local costs = text(charged)
  local row = { 'c', call, 'h', text(held), 'x', costs, 's', settlement, 't', now }
  if settlement == '' then
    -- Nobody else has noted where it counts.
    for _, word in ipairs({ 'd', string.format('%.0f', day), 'm', string.format('%.0f', month) }) do
      row[#row + 1] = word
    end
    if #ids > 0 then
      row[#row + 1], row[#row + 2] = 'b', cjson.encode(ids)
    end
  end
  redis.call('XADD', keys.usage, 'MAXLEN', '~', rows_max, position, unpack(row))
  if costs ~= '0' then
    redis.call('XADD', keys.charges, 'MAXLEN', '~', rows_max, position, 'c', call, 'x', costs, 't', now)
  end
  return charged
end

-- What is known of an idempotency key: its request's fingerprint, when it may be forgotten, and '1'
-- if the call was charged.
local function known_of(keys, key)
  local known = key ~= '' and redis.call('HGET', keys.once, key)
  if known then
    return string.match(known, '^(%x+) (-?%d+) (%d)$')
  end
end

local function keep(keys, key, fingerprint, ends)
  redis.call('HSET', keys.once, key, fingerprint .. ' ' .. ends .. ' 1')
  redis.call('ZADD', keys.once_ends, ends, key)
end

-- Ends an open hold. Without `charged` the hold is resolved by its own policy. Returns nil if there
-- was no such hold; otherwise its packed record, what was charged, and the fingerprint and end of its
-- idempotency key if that was freed.
local function finish(keys, number, charged, settlement, now, second, rows_max, passed)
  local packed = redis.call('HGET', keys.open, number)
  if not packed then
    return nil
  end
  local record = cmsgpack.unpack(packed)
  local held, expiry, key = amount(record[1]), record[4], record[5]
  if not charged then
    charged = expiry == 'charge' and held or ZERO
  end
  charged = book(keys, record, held, charged, settlement, now, second, rows_max, passed)
  redis.call('HDEL', keys.open, number)
  local costs = text(charged)
  local fingerprint, ends = known_of(keys, key)
  if not fingerprint then
    return packed, costs, '', ''
  elseif costs ~= '0' then
    -- The key of a charged call stays known; a call that cost nothing may be tried again.
    keep(keys, key, fingerprint, ends)
    return packed, costs, '', ''
  end
  redis.call('HDEL', keys.once, key)
  return packed, costs, fingerprint, ends
end

-- KEYS  books, idempotency keys, the same by end, the instance's open holds, its marks, usage,
--       charges, its abandoned holds
local books, once, once_ends, open, marks, usage, charges, late = unpack(KEYS)
local keys = {
  books = books,
  once = once,
  once_ends = once_ends,
  open = open,
  usage = usage,
  charges = charges,
}
