-- Soft limits. A budget's field, and its rolling window's, have the smallest of each window. Where a
-- window has several, all of them are in a third field: four words, for day, month, total and the
-- rolling window. Each is "-", or the soft limits, smallest first, separated by commas. In the
-- rolling window "@" follows what was reported, and the second at which it last was; of the
-- smallest, that window's own field knows. Scripts of an older version neither update nor lose it.

local function soft_words(books, name)
  local words = {}
  for word in string.gmatch(redis.call('HGET', books, 's:' .. name) or '', '%S+') do
    words[#words + 1] = word
  end
  return #words == 4 and words or { '-', '-', '-', '-' }
end

-- The soft limits of a word; nil if it was never written by `soft_word`.
local function soft_parts(word)
  local all, before = {}, nil
  for part in string.gmatch(word .. ',', '([^,]*),') do
    local digits, second = string.match(part, '^(%d+)$'), nil
    if not digits then
      digits, second = string.match(part, '^(%d+)@(-?%d+)$')
    end
    -- No more digits than an i64 has, and no more soft limits than a window has.
    if not digits or #digits > 19 or #all == 8 then
      return nil
    end
    local limit = amount(digits)
    if less(LARGEST, limit) or (before and not less(before, limit)) then
      return nil
    end
    before = limit
    all[#all + 1] = { limit = digits, reported_at = tonumber(second) }
  end
  return all
end

-- All soft limits of a window, smallest first. A word that begins with another than the smallest
-- counts no more: an older version has changed that one. Nor does one that can't be read: no call
-- fails because nobody would be told of it.
local function soft_limits(smallest, reported_at, word)
  local all = soft_parts(word or '-')
  if not all or all[1].limit ~= smallest then
    all = { { limit = smallest } }
  end
  all[1].reported_at = reported_at
  return all
end

local function soft_word(all)
  if not all[2] then
    return '-'
  end
  local parts = {}
  for i, soft in ipairs(all) do
    parts[i] = soft.limit
    if i > 1 and soft.reported_at then
      parts[i] = parts[i] .. '@' .. string.format('%.0f', soft.reported_at)
    end
  end
  return table.concat(parts, ',')
end
