-- Writes a row of the usage log for a call that had no hold.
--
-- KEYS  books, usage
-- ARGV  call, settlement, now, rows to keep, a unique name for the row, '1' for a retry

local books, usage = unpack(KEYS)
local call, settlement, now, rows_max, name, is_retry = unpack(ARGV)

if is_retry == '1' then
  -- The answer was lost, so the row may exist. No money is at stake: checking the latest rows is
  -- enough.
  for _, row in ipairs(redis.call('XREVRANGE', usage, '+', '-', 'COUNT', 1000)) do
    for i = 1, #row[2], 2 do
      if row[2][i] == 'i' and row[2][i + 1] == name then
        return 0
      end
    end
  end
end
local position = string.format('%.0f-0', redis.call('HINCRBY', books, 'position', 1))
local row = { 'c', call, 'h', '0', 'x', '0', 's', settlement, 't', now, 'i', name }
redis.call('XADD', usage, 'MAXLEN', '~', rows_max, position, unpack(row))
return 1
