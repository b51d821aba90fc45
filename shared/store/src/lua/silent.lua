-- Reports that attempts at destinations of one shard have waited long for an answer. A destination
-- is silent for a while if no attempt there got an answer in that time. It gets no more attempts
-- meanwhile. It stays silent as long as the report is repeated.
--
-- ARGV from FIRST, 2 per destination: its name; for how many ms an attempt there has waited
-- Reply: now; 1 or 0 per destination: it is silent, or other attempts were answered.
-- Full memory: refused; only the next attempts there notice.
-- Cost: 1 operation per destination, 2 if it is silent. Atomic; repeating it changes nothing.

assert((#ARGV - FIRST + 1) % 2 == 0, 'silent takes 2 values per destination')

local reply = { NOW }
for i = FIRST, #ARGV, 2 do
  local is_mute = is_mute_for(read_pace(ARGV[i]), tonumber(ARGV[i + 1]))
  if is_mute then redis.call('HSET', pace_key(ARGV[i]), 'silent', text(NOW + SILENT_MS)) end
  reply[#reply + 1] = is_mute and 1 or 0
end
write_journal()
return reply
