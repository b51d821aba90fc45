-- Reports that attempts at destinations of one shard have waited long for an answer. A destination
-- is silent for a while if no attempt there got an answer in that time. It gets no more attempts
-- meanwhile. It stays silent as long as the report is repeated.
--
-- Takes for each DESTINATION:
--   destination
--   waited       for how many ms an attempt there has waited
-- Reply: now; 1 or 0 per destination: it is silent, or other attempts were answered.
-- Full memory: refused; only the next attempts there notice.
-- Cost: 1 operation per destination, 2 if it is silent. Atomic; repeating it changes nothing.

local reply = { NOW }
for i = DESTINATION_AT, #ARGV, DESTINATION_WIDTH do
  local destination, waited = unpack(ARGV, i, i + DESTINATION_WIDTH - 1)
  local is_mute = is_mute_for(read_pace(destination), tonumber(waited))
  if is_mute then redis.call('HSET', pace_key(destination), 'silent', text(NOW + SILENT_MS)) end
  reply[#reply + 1] = is_mute and 1 or 0
end
write_journal()
return reply
