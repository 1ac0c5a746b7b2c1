-- The latest payments and charges, read at the same moment.
--
-- KEYS  payments, charges
-- ARGV  the position to start before ('+' for the newest), how many of each

local payments, charges = unpack(KEYS)
local before, count = unpack(ARGV)

local function latest(key)
  return redis.call('XREVRANGE', key, before, '-', 'COUNT', count)
end
return { latest(payments), latest(charges) }
