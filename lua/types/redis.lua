---@meta redis

---@class redis
local redis = {}

---@class redis.Options
---@field node string|string[]     such as 'redis://127.0.0.1:6379/'
---@field pool_size? integer
---@field username? string
---@field password? string
---@field connect_timeout? string|number   default 2 seconds
---@field response_timeout? string|number  default 2 seconds
---@field cluster? boolean

---@class redis.Connection
local connection = {}
---@param command string
---@param ... string|number
---@return any nil, integer, boolean (true for the status OK), string or table, in which nil keeps its place and counts for `#`; an error of the server raises,
---and so does an answer of more than 16 MiB or 100,000 items
function connection:query(command, ...) end

---@param options redis.Options
---@return redis.Connection
function redis.open(options) end

return redis
