-- Claims a reference for one movement of money; the first claim wins.
--
-- KEYS  the reference
-- ARGV  the claim
--
-- Answers the winning claim.

local reference, claim = KEYS[1], ARGV[1]
redis.call('SET', reference, claim, 'NX')
return redis.call('GET', reference)
