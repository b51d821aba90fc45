-- Removes what is left of leases that are over. Only a fault can leave anything of them. If the
-- clock was set back, a lease may last longer than its length from now on: then it is cut to its
-- length.
--
-- Takes:
--   page_from  where the page starts: '0', or what the page before it replied
--   page_size  how many fields to look at, about; a lease has two
-- Reply: now; where the next page starts ('0': there is none); how many were removed.
-- Full memory: runs; it deletes, and overwrites deadlines that exist.
-- Cost: 3 operations for a page, and 1 if a lease is cut. Atomic; repeating it changes nothing.

local cursor, found = unpack(redis.call('HSCAN', LEASED, page_from, 'COUNT', page_size))
local fields, tokens, over, removed = {}, {}, {}, 0
local lengths, cut = {}, {}
for i = 1, #found, 2 do
  fields[#fields + 1] = found[i]
  tokens[#tokens + 1] = string.match(found[i], '^[^ ]*')
  if fields[#fields] ~= tokens[#tokens] then lengths[#fields] = length_of(found[i + 1]) end
end
if #tokens > 0 then
  for k, deadline in ipairs(redis.call('ZMSCORE', LEASES, unpack(tokens))) do
    if not deadline then
      over[#over + 1] = fields[k]
      if fields[k] == tokens[k] then removed = removed + 1 end
    elseif lengths[k] and tonumber(deadline) > NOW + lengths[k] then
      cut[#cut + 1] = text(NOW + lengths[k])
      cut[#cut + 1] = tokens[k]
    end
  end
end
call_many('HDEL', LEASED, over)
call_many('ZADD', LEASES, cut)
return { NOW, cursor, removed }
