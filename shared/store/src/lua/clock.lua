-- Returns the server's time.
--
-- Reply: now.
-- Full memory: reads, and writes nothing.
-- Cost: 1 operation.

return NOW
