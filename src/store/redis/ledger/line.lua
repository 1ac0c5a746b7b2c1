-- Sets the credit line, and answers the balance.
--
-- KEYS  books
-- ARGV  how far the account may be spent below what was paid in

redis.call('HSET', KEYS[1], 'credit_line', ARGV[1])
return redis.call('HMGET', KEYS[1], 'deposited', 'settled', 'held', 'credit_line')
