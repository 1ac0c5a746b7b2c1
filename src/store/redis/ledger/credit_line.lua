-- Sets the credit line, and answers the balance.
--
-- KEYS  books
-- ARGV  how far the account may be spent below what was paid in

local books, credit_line = KEYS[1], ARGV[1]
redis.call('HSET', books, 'credit_line', credit_line)
return redis.call('HMGET', books, 'deposited', 'settled', 'held', 'credit_line')
