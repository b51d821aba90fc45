-- Counts the jobs that wait at one destination, and returns when the first of them is due.
--
-- Takes:
--   destination
-- Reply: now; how many; when the first is due, or nil.
-- Full memory: reads, and writes nothing.
-- Cost: 2 operations. Atomic.

local key = due_key(destination)

return { NOW, redis.call('ZCARD', key), redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')[2] or false }
