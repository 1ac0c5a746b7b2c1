-- Ends an open hold. `keys`: books, once, once by end, open, usage, charges. Without `charged` the hold
-- is resolved by its own policy. Adds the soft limits that were passed to `passed`, four words each, and
-- returns whether there was such a hold.
local function finish(keys, number, charged, settlement, now, second, rows_max, passed)
  local packed = redis.call('HGET', keys.open, number)
  if not packed then
    return false
  end
  local record = cmsgpack.unpack(packed)
  local held, day, month, expiry, key, call = unpack(record, 1, 6)
  local ids = record[7]
  local balance, budgets = load(keys.books, ids)
  held = amount(held)
  if not charged then
    charged = expiry == 'charge' and held or ZERO
  end
  local room = bounded(minus(LARGEST, balance.settled))
  charged = least(most(charged, ZERO), room)
  balance.held = bounded(minus(balance.held, held))
  balance.settled = bounded(plus(balance.settled, charged))

  local function tell(n, window, soft, settled)
    local words = { ids[n], tostring(window), soft, text(settled) }
    for _, word in ipairs(words) do
      passed[#passed + 1] = word
    end
  end

  local same = { 0, 0, true }
  for n, budget in ipairs(budgets) do
    same[1], same[2] = budget.day == day, budget.month == month
    for i, window in ipairs(budget) do
      if same[i] then
        local before = window.settled
        window.held = bounded(minus(window.held, held))
        window.settled = bounded(plus(before, charged))
        if window.soft ~= '-' then
          local soft = amount(window.soft)
          if less(before, soft) and not less(window.settled, soft) then
            tell(n, i, window.soft, window.settled)
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
        local soft = amount(rolling.soft)
        local is_passed = less(before, soft) and not less(rolling.settled, soft)
        if is_passed and (not rolling.told or at >= rolling.told + rolling.seconds) then
          rolling.told = at
          tell(n, 4, rolling.soft, rolling.settled)
        end
      end
    end
  end

  save(keys.books, balance, ids, budgets)
  redis.call('HDEL', keys.open, number)
  local free = charged[1] == 0 and charged[2] == 0
  if key ~= '' then
    -- What was charged stays known; what cost nothing may be tried again.
    local known = redis.call('HGET', keys.once, key)
    if known and free then
      redis.call('HDEL', keys.once, key)
    elseif known then
      local fingerprint, ends = string.match(known, '^(%x+) (-?%d+)')
      redis.call('HSET', keys.once, key, fingerprint .. ' ' .. ends .. ' 1')
      redis.call('ZADD', keys.once_ends, ends, key)
    end
  end
  local place = string.format('%.0f-0', redis.call('HINCRBY', keys.books, 'position', 1))
  local costs = text(charged)
  local row = { 'c', call, 'h', record[1], 'x', costs, 's', settlement, 't', now }
  redis.call('XADD', keys.usage, 'MAXLEN', '~', rows_max, place, unpack(row))
  if not free then
    redis.call('XADD', keys.charges, 'MAXLEN', '~', rows_max, place, 'c', call, 'x', costs, 't', now)
  end
  return true
end
