-- Releases the claim on a request of a mail service, if it still belongs to this owner. A claim
-- that ran out may belong to another process by now.
--
-- Takes:
--   digest  the hash of the request's id, as 32 hexadecimal digits
--   owner   the owner's name
-- Reply: now; 1 if it was the owner's, else 0, and nothing changed.
-- Full memory: runs; it only deletes.
-- Cost: 2 operations. Atomic; repeating it changes nothing.

local key = PREFIX .. 'hearing:' .. digest
if redis.call('GET', key) ~= owner then return { NOW, 0 } end
redis.call('DEL', key)
return { NOW, 1 }
