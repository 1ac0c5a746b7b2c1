-- Sets the limits of a budget, and answers the budget.
--
-- KEYS  books
-- ARGV  the budget's name, day, month, three limits, three soft ones ('-' for none)

local _, budgets = load(KEYS[1], { ARGV[1] })
local budget = budgets[1]
roll(budget, tonumber(ARGV[2]), tonumber(ARGV[3]))
for i = 1, 3 do
  budget[i].limit, budget[i].soft = ARGV[i + 3], ARGV[i + 6]
end
local words = words_of(budget)
redis.call('HSET', KEYS[1], 'b:' .. ARGV[1], words)
return words
