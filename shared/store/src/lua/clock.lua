-- Tells the server's instant.
--
-- Reply: now.
-- Full memory: reads, and writes nothing.
-- Cost: 1 operation.

return NOW
