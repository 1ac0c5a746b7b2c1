-- The latest payments and charges, seen at one moment.
--
-- KEYS  payments, charges
-- ARGV  before which place ('+': all), how many of each

local function latest(key)
  return redis.call('XREVRANGE', key, ARGV[1], '-', 'COUNT', ARGV[2])
end
return { latest(KEYS[1]), latest(KEYS[2]) }
