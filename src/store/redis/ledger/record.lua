-- Writes a row of the usage log for a call that had no hold.
--
-- KEYS  books, usage
-- ARGV  call, settlement, now, rows to keep, a name of the row, '1' where it was tried before

if ARGV[6] == '1' then
  -- The answer was lost, the row may be there. Money isn't at stake: a look at the latest ones will do.
  for _, row in ipairs(redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1000)) do
    for i = 1, #row[2], 2 do
      if row[2][i] == 'i' and row[2][i + 1] == ARGV[5] then
        return 0
      end
    end
  end
end
local place = string.format('%.0f-0', redis.call('HINCRBY', KEYS[1], 'position', 1))
local row = { 'c', ARGV[1], 'h', '0', 'x', '0', 's', ARGV[2], 't', ARGV[3], 'i', ARGV[5] }
redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[4], place, unpack(row))
return 1
