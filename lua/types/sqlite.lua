---@meta sqlite

---@class sqlite
local sqlite = {}

---@class sqlite.Connection
local connection = {}

---Runs a statement. Rows of one column come as a list of values, rows of more as a list of tables; a statement without rows
---gives the number of rows that it changed.
---@param sql string
---@param ... any positional parameters, or one table of named ones
---@return any
function connection:execute(sql, ...) end
function connection:close() end

---@param path string relative to the policy's folder, or ':memory:'
---@param busy_timeout_ms? integer default 500
---@return sqlite.Connection
function sqlite.open(path, busy_timeout_ms) end

return sqlite
