-- Counts the jobs that wait at one destination, and returns when the first of them is due.
--
-- ARGV[FIRST]  destination
-- Reply: now; how many; when the first is due, or nil.
-- Full memory: reads, and writes nothing.
-- Cost: 2 operations. Atomic.

assert(#ARGV == FIRST, 'waiting takes 1 value')
local key = due_key(ARGV[FIRST])

return { NOW, redis.call('ZCARD', key), redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')[2] or false }
