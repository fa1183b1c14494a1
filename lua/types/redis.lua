---@meta redis

---@class redis
local redis = {}

---@class redis.Options
---@field node string|string[]     such as 'redis://127.0.0.1:6379/'
---@field pool_size? integer
---@field username? string
---@field password? string
---@field connect_timeout? string|number
---@field response_timeout? string|number
---@field cluster? boolean

---@class redis.Connection
local connection = {}
---@param command string
---@param ... string|number
---@return any nil, integer, boolean, string or table; an error of the server raises
function connection:query(command, ...) end

---@param options redis.Options
---@return redis.Connection
function redis.open(options) end

return redis
