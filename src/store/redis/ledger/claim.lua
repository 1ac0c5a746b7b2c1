-- Claims a reference for one movement of money: of all that claim it, the first.
--
-- KEYS  the reference
-- ARGV  the claim
--
-- Answers the claim that stands.

redis.call('SET', KEYS[1], ARGV[1], 'NX')
return redis.call('GET', KEYS[1])
